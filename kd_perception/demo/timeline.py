# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The hybrid over the recorded time: its state, who answered, how ambiguous the frames were, what waited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from pathlib import Path
from typing import Any

from kd_perception.demo.answers import Answer, Key, SOURCES, Span
from kd_perception.demo.overview import SOURCE_RGB

STATE_COLORS = {'NOMINAL': '#009E73', 'DEGRADED': '#E69F00', 'ERROR': '#D55E00'}
_WIDTH_IN, _CAMERA_IN = 12.0, 5.2
_HEIGHTS = (1.5, 1.5, 1.2)
_DPI = 110
_NAMED_SHARE, _FAULTS_TOLD = 0.07, 2


def draw(path: Path, answers: Mapping[Key, Answer], states: Mapping[str, Sequence[Span]], start_ns: int,
         settings: Mapping[str, float]) -> None:
    """
    Write the picture (PNG).

    :param states: camera -> its states. Cameras are drawn in this order.
    :param start_ns: recorded time that counts as 0.
    :param settings: `enter_threshold` (None: it follows the scores) and `deadline_ms`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(_WIDTH_IN, 0.5 + _CAMERA_IN * len(states)), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(_HEIGHTS) * len(states), 1, sharex=True, squeeze=False,
                           height_ratios=_HEIGHTS * len(states))[:, 0]
    for row, (camera, spans) in enumerate(states.items()):
        frames = [((key[1] - start_ns) / 1e9, answers[key]) for key in sorted(answers, key=lambda key: key[1])
                  if key[0] == camera and answers[key].facts]
        top, middle, bottom = axes[len(_HEIGHTS) * row:len(_HEIGHTS) * (row + 1)]
        _draw_states(top, spans, start_ns)
        _draw_sources(top, frames)
        top.set_title(_plain(f'camera {camera}'), fontsize=11, loc='left', fontweight='bold')
        top.set_title(_plain(_faults(spans, start_ns)), fontsize=8, loc='right', color='#4a5561')
        _draw_values(middle, frames, 'ambiguity', settings['enter_threshold'], 'enter')
        middle.set_ylabel('ambiguity')
        _draw_values(bottom, frames, 'waited_ms', settings['deadline_ms'], 'deadline')
        bottom.set_ylabel('waited [ms]')
    axes[-1].set_xlabel('recorded time [s]')
    figure.savefig(path, dpi=_DPI)


def _draw_states(place: Any, spans: Sequence[Span], start_ns: int) -> None:
    """Fill the ground with the state, and name each stretch that is long enough for it."""
    for span in spans:
        begin, end = (span.start_ns - start_ns) / 1e9, (span.end_ns - start_ns) / 1e9
        color = STATE_COLORS.get(span.state, '#888888')
        place.axvspan(begin, end, ymin=0, ymax=0.86, color=color, alpha=0.13, linewidth=0)
        place.axvspan(begin, end, ymin=0.86, ymax=1, color=color, linewidth=0)
        if span.end_ns - span.start_ns >= _NAMED_SHARE * (spans[-1].end_ns - spans[0].start_ns):
            place.annotate(span.state, ((begin + end) / 2, 0.93), xycoords=('data', 'axes fraction'),
                           ha='center', va='center', fontsize=7.5, color='white', fontweight='bold')


def _draw_sources(place: Any, frames: Sequence[tuple[float, Answer]]) -> None:
    """Draw one mark a frame, on the line of who answered it."""
    for line, source in enumerate(reversed(SOURCES)):
        times = [time_s for time_s, answer in frames if answer.source == source]
        place.plot(times, [line] * len(times), '|', color=_color(source), markersize=11, markeredgewidth=1.8)
    counts = [sum(answer.source == source for _, answer in frames) for source in reversed(SOURCES)]
    place.set_yticks(range(len(SOURCES)), [
        f'{source}  {count}' for source, count in zip(reversed(SOURCES), counts)], fontsize=8.5)
    place.set_ylim(-0.6, len(SOURCES) + 0.4)
    _open(place)


def _draw_values(place: Any, frames: Sequence[tuple[float, Answer]], key: str, limit: float | None,
                 name: str) -> None:
    """Draw a fact of each frame in the colour of who answered it, and its limit where that is fixed."""
    times, values = [time_s for time_s, _ in frames], [answer.number(key) for _, answer in frames]
    place.plot(times, values, color='#c3c9d1', linewidth=0.8, zorder=1)
    place.scatter(times, values, s=14, c=[_color(answer.source) for _, answer in frames], zorder=2,
                  edgecolors='#4a5561', linewidths=0.4)
    if limit is not None:
        place.axhline(limit, color='#27313d', linewidth=1, linestyle='--', zorder=1)
        text = f'{limit:.0f}' if limit >= 100 else f'{limit:.3g}'
        place.annotate(f'{name} {text}', (1.0, limit), xycoords=('axes fraction', 'data'), fontsize=8.5,
                       ha='right', va='bottom', color='#27313d')
        finite = [value for value in (*values, limit) if math.isfinite(value)]
        high = max(0.0, *finite)
        place.set_ylim(bottom=min(0.0, *finite) - 0.04 * high, top=1.2 * high)
    place.grid(True, axis='y', color='#d9dee5', linewidth=0.7)
    place.set_axisbelow(True)
    _open(place)


def _color(source: str) -> tuple[float, ...]:
    return tuple(channel / 255 for channel in SOURCE_RGB.get(source, (0, 0, 0)))


def _faults(spans: Sequence[Span], start_ns: int) -> str:
    """Say what the first faults were, as the fallback told them."""
    told = [f'{(span.start_ns - start_ns) / 1e9:.1f} s {span.message}' for span in spans
            if span.state != 'NOMINAL']
    left = len(told) - _FAULTS_TOLD
    return '   '.join(told[:_FAULTS_TOLD]) + (f'   and {left} more' if left > 0 else '')


def _plain(text: str) -> str:
    """Keep matplotlib from reading names between dollar signs as formulas."""
    return text.replace('$', r'\$')


def _open(place: Any) -> None:
    for side in ('top', 'right'):
        place.spines[side].set_visible(False)
