# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Plots of `evaluate hybrid`, in the style of the other reports, as SVG text or PNG bytes."""
from collections.abc import Callable, Iterator
import io
from typing import Any

import numpy as np

from kd_perception.evaluation.hybrid.gates import DEFAULT, LEARNED, ORACLE, RANDOM
from kd_perception.evaluation.report import plots

_PNG_DPI = 160
_BACK = '#b4bdc8'
# Gates that stand out; single signals stay in the background.
_SHOWN: dict[str, dict[str, Any]] = {
    ORACLE: {'color': '#8a95a3', 'linestyle': '--', 'label': 'oracle (true gain)'},
    LEARNED: {'color': plots.COLORS[0], 'label': 'learned gate', 'marker': 'o', 'markersize': 4},
    DEFAULT: {'color': plots.COLORS[2], 'label': 'signals, no training', 'marker': 's', 'markersize': 3.5},
    RANDOM: {'color': plots.COLORS[1], 'linestyle': ':', 'label': 'random'},
}


def _ordered(metric: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield (name, gate, style), the background first."""
    signals = [name for name, gate in metric['gates'].items() if gate['kind'] == 'signal']
    for i, name in enumerate(signals):
        yield name, metric['gates'][name], {
            'color': _BACK, 'linewidth': 0.8, 'label': 'one signal alone' if i == 0 else None}
    for name, style in reversed(_SHOWN.items()):
        if name in metric['gates']:
            yield name, metric['gates'][name], {'linewidth': 1.8, **style}


def ap_share(metric: dict[str, Any], share: float):
    """Draw mean AP against the share of frames sent, every gate; return the figure."""
    figure, axes = plots._figure(6.4, 4.2)
    x = np.array(metric['shares'])
    for name, gate, style in _ordered(metric):
        axes.plot(x, gate['ap'], solid_joinstyle='round', **style)
        if name == RANDOM:
            low, high = (np.array(gate['ap']) + sign * np.array(gate['ap_spread']) for sign in (-1, 1))
            axes.fill_between(x, low, high, color=style['color'], alpha=0.13, linewidth=0)
    axes.axvline(share, color='#8a95a3', linewidth=0.8)
    half = (metric['student_ap'] + metric['teacher_ap']) / 2
    axes.plot([share], [half], '+', color=plots.TEXT, markersize=9, label="half of the teacher's gain")
    axes.set_xlim(0, 1)
    over = ', '.join(metric['mean_over'])
    plots._finish(axes, f'{metric["text"]}: mean AP of {over}', 'share of frames sent to the teacher',
                  'AP R40 [%]')
    return figure


_WAYS = {
    'refreshed, carried': {'color': plots.COLORS[0], 'linewidth': 2.2, 'marker': 'D', 'markersize': 4.5},
    'gated, carried': {'color': plots.COLORS[3], 'marker': 'o', 'markersize': 4},
    'regular, carried': {'color': plots.COLORS[0], 'linestyle': '--', 'marker': 's', 'markersize': 3.5},
    'gated, replaced': {'color': plots.COLORS[2], 'marker': 'o', 'markersize': 4},
    'regular, replaced': {'color': plots.COLORS[1], 'linestyle': ':', 'marker': 's', 'markersize': 3.5},
}


def ap_share_in_time(metric: dict[str, Any], replay: dict[str, Any], share: float):
    """Draw mean AP against the share sent, as the node decides and from a sorted list; return the figure."""
    figure, axes = plots._figure(6.4, 4.2)
    gate = metric['gates'].get(replay['scorer'])
    if gate:
        axes.plot(metric['shares'], gate['ap'], color=_BACK, label=f'{replay["scorer"]}, sorted, replaced')
    for name, style in _WAYS.items():
        if name in replay['ways']:
            way = replay['ways'][name]
            axes.plot([0, *way['sent']], [metric['student_ap'], *way['ap']], label=name, **style)
    half = (metric['student_ap'] + metric['teacher_ap']) / 2
    axes.plot([share], [half], '+', color=plots.TEXT, markersize=9, label="half of the teacher's gain")
    axes.set_xlim(0, 1)
    over = ', '.join(metric['mean_over'])
    plots._finish(axes, f'{metric["text"]}, in time: mean AP of {over}',
                  'share of frames sent to the teacher', 'AP R40 [%]')
    return figure


def class_ap(metric: dict[str, Any], name: str):
    """Draw one class's AP against the share sent; return the figure."""
    figure, axes = plots._figure()
    for _, gate, style in _ordered(metric):
        if gate['kind'] != 'signal':
            axes.plot(metric['shares'], gate['ap_by_class'][name], **style)
    axes.set_xlim(0, 1)
    plots._finish(axes, name, 'share sent', 'AP R40 [%]')
    return figure


def risk_coverage(metric: dict[str, Any]):
    """Draw the mean gain given up on the frames that stay with the student; return the figure."""
    figure, axes = plots._figure(6.4, 4.2)
    for _, gate, style in _ordered(metric):
        curve = gate['risk_coverage']
        axes.plot(curve['coverage'], curve['risk'], **{**style, 'marker': None})
    axes.set_xlim(0, 1)
    plots._finish(axes, f'{metric["text"]}: risk and coverage',
                  'coverage: share of frames left to the student', 'gain given up a frame [AP points]')
    return figure


def svg(draw: Callable, *args: Any) -> str:
    """Return a figure as SVG text."""
    return plots._svg(draw(*args))


def png(draw: Callable, *args: Any) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    draw(*args).savefig(buffer, format='png', dpi=_PNG_DPI, metadata={'Software': None})
    return buffer.getvalue()
