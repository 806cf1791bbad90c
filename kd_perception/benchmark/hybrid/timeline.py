# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The picture of a run of `benchmark hybrid`: states and faults, waits, memory over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kd_perception.benchmark.hybrid.processes import BYTES_PER_MB
from kd_perception.benchmark.hybrid.report import Run

# Okabe and Ito's palette, as in the evaluation's plots.
_STATES = {'NOMINAL': '#009E73', 'DEGRADED': '#E69F00', 'ERROR': '#D55E00'}
_SOURCES = {'student': '#56B4E9', 'teacher': '#009E73', 'merged': '#CC79A7', 'carried': '#0072B2',
            'student-late-teacher': '#D55E00', 'student-no-teacher': '#E69F00'}
_PROCESSES = {'student': '#0072B2', 'fallback': '#D55E00', 'teacher': '#009E73', 'load': '#999999'}
_GREY, _TEXT = '#d9dee5', '#27313d'


def write_timeline(path: Path, run: Run, report: dict[str, Any]) -> None:
    """Draw the run as a PNG file."""
    cameras = list(report['cameras'])
    faults = [fault for fault in report['faults'] if not fault['skipped']]
    lanes = len(cameras) + len({fault['kind'] for fault in faults})
    heights = (0.5 + 0.26 * lanes, 2.6, 1.8)
    figure = Figure(figsize=(11, sum(heights) + 1.2), layout='constrained')
    FigureCanvasAgg(figure)
    states, waits, memory = figure.subplots(3, 1, sharex=True, height_ratios=heights)
    _draw_states(states, report, cameras, faults)
    _draw_waits(waits, run, report['deadline']['deadline_ms'])
    for name, usage in run.nodes.usage.items():
        for i, life in enumerate(filter(None, usage.lives)):
            memory.plot([t for t, _ in life], [rss / BYTES_PER_MB for _, rss in life],
                        color=_PROCESSES[name], label='' if i else name, linewidth=1.4)
    memory.set_ylabel('RSS, MB')
    memory.set_ylim(bottom=0)
    memory.set_xlabel('time, s')
    for axes in (states, waits, memory):
        axes.grid(True, axis='x' if axes is states else 'both', color=_GREY, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=_TEXT, labelsize=8)
        axes.set_xlim(0, report['seconds'])
        handles = [Patch(color=c, label=n) for n, c in _STATES.items()] if axes is states else None
        axes.legend(handles=handles, fontsize=7.5, frameon=False, loc='upper left',
                    bbox_to_anchor=(1.0, 1.0), markerscale=3)
    figure.savefig(path, dpi=110)


def _draw_states(axes: Any, report: dict[str, Any], cameras: list[str], faults: list[dict]) -> None:
    lanes = [*cameras, *dict.fromkeys(fault['kind'] for fault in faults)]
    for lane, name in enumerate(lanes):
        for begin, end, state in report['cameras'].get(name, {}).get('states', ()):
            axes.broken_barh([(begin, end - begin)], (lane - 0.4, 0.8), color=_STATES.get(state, _GREY))
        for fault in faults:
            if fault['kind'] == name:
                axes.broken_barh([(fault['begin_s'], max(0.15, fault['end_s'] - fault['begin_s']))],
                                 (lane - 0.3, 0.6), color='#555f6b')
                axes.text(fault['end_s'], lane, f' {fault["camera"] or ""}', fontsize=6.5, va='center',
                          color=_TEXT, clip_on=True)
    axes.set_yticks(range(len(lanes)), lanes)
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    settings = report['settings']
    axes.set_title(f'State of each camera, and faults: {settings["cameras"]} cameras at '
                   f'{settings["rate_hz"]:g} Hz', fontsize=10, color=_TEXT, loc='left')


def _draw_waits(axes: Any, run: Run, deadline_ms: float) -> None:
    for source, color in _SOURCES.items():
        points = [((told.arrival_ns - run.begin_ns) / 1e9, told.waited_ns / 1e6)
                  for records in run.records.values() for told in records.told if told.source == source]
        if points:
            axes.plot(*zip(*points), '.', color=color, label=source, markersize=3)
    axes.axhline(deadline_ms, color=_TEXT, linewidth=0.8, linestyle='--')
    axes.set_ylabel("student's result to\nverified, ms")
    axes.set_ylim(bottom=-0.03 * deadline_ms)
