# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The report's plots as SVG text. The only module of the evaluation that needs matplotlib."""
import io
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
import numpy as np

# Okabe and Ito's palette: told apart by readers with any kind of colour vision.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
GRID, TEXT = '#d9dee5', '#27313d'
_STYLE = {'linewidth': 1.8, 'solid_joinstyle': 'round'}
# Fixed, so that the same figures give the same file.
_METADATA = {'Date': None, 'Creator': None}


def _figure(width: float = 4.6, height: float = 3.5):
    figure = Figure(figsize=(width, height))
    # Fixed margins [inches]: a layout engine draws every figure several times.
    figure.subplots_adjust(left=0.72 / width, right=1 - 0.12 / width, bottom=0.52 / height,
                           top=1 - 0.32 / height)
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.grid(True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    for side in ('left', 'bottom'):
        axes.spines[side].set_color('#8a95a3')
    axes.tick_params(colors=TEXT, labelsize=9)
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'kd_perception'}):
        figure.savefig(buffer, format='svg', metadata=_METADATA)
    text = buffer.getvalue()
    return text[text.index('<svg'):]


def _plain(text: str) -> str:
    """Keep matplotlib from reading names between dollar signs as formulas."""
    return text.replace('$', r'\$')


def _finish(axes, title: str, x: str, y: str, legend: bool = True) -> None:
    axes.set_title(_plain(title), fontsize=11, color=TEXT, loc='left', fontweight='bold')
    axes.set_xlabel(x, fontsize=9.5, color=TEXT)
    axes.set_ylabel(y, fontsize=9.5, color=TEXT)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8.5)


def precision_recall(name: str, levels: dict[str, dict[str, Any]]) -> str | None:
    """Draw the 41 interpolated precision points of each difficulty; None where nothing was evaluated."""
    figure, axes = _figure()
    drawn = False
    for color, (level, result) in zip(COLORS, levels.items()):
        if result.get('precision') and result['valid_ground_truths']:
            values = np.array([np.nan if value is None else value for value in result['precision']])
            reached = len(result['thresholds'])
            ap = result['ap_r40']
            label = _plain(f'{level}, AP {ap:.1f}' if ap is not None else level)
            axes.plot(np.arange(reached) / 40, values[:reached], color=color, label=label, **_STYLE)
            drawn = True
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    _finish(axes, name, 'recall', 'precision (interpolated)')
    return _svg(figure) if drawn else None


def miss_rate(details: dict[str, dict[str, Any]]) -> str | None:
    """Draw miss rate against false positives per image, both logarithmic, as in the Caltech papers."""
    figure, axes = _figure(5.2, 3.7)
    lowest, drawn = 1.0, False
    for color, (name, item) in zip(COLORS, details.items()):
        fppi, miss = np.array(item['curve']['fppi']), np.array(item['curve']['miss'])
        if not item['valid_ground_truths'] or not len(fppi):
            continue
        floor = np.maximum(miss, 1e-3)
        lamr = '' if item['lamr'] is None else f', LAMR {100 * item["lamr"]:.1f} %'
        axes.plot(np.maximum(fppi, 1e-3), floor, color=color, label=name + lamr,
                  drawstyle='steps-post', **_STYLE)
        lowest, drawn = min(lowest, floor.min()), True
    axes.set_xscale('log')
    axes.set_yscale('log')
    axes.set_xlim(1e-3, 1e1)
    axes.set_ylim(min(max(0.8 * lowest, 1e-3), 0.4), 1.05)
    axes.axvspan(1e-2, 1, color='#56B4E9', alpha=0.08, linewidth=0)
    percent = FuncFormatter(lambda value, _: f'{100 * value:g} %')
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.yaxis.set_major_formatter(percent)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    _finish(axes, 'Miss rate of pedestrians', 'false positives per image', 'miss rate')
    return _svg(figure) if drawn else None


def reliability(name: str, item: dict[str, Any]) -> str | None:
    """Draw precision against score, with the number of detections in each bin."""
    if item['d_ece'] is None:
        return None
    figure, axes = _figure(3.6, 3.5)
    bins = item['bins']
    count = len(bins['count'])
    precision = np.array([np.nan if value is None else value for value in bins['precision']])
    score = np.array([np.nan if value is None else value for value in bins['mean_score']])
    centre = (np.arange(count) + 0.5) / count
    axes.bar(centre, np.nan_to_num(precision), 0.92 / count, color='#56B4E9', label='precision')
    axes.plot([0, 1], [0, 1], color='#8a95a3', linewidth=1, linestyle='--', label='calibrated')
    axes.plot(score, precision, 'o', color='#0072B2', markersize=3.5)
    share = np.array(bins['count'], dtype=float)
    axes.bar(centre, -0.12 * share / max(1.0, share.max()), 0.92 / count, color='#c3ccd6')
    axes.axhline(0, color='#8a95a3', linewidth=0.8)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.14, 1.02)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    title = f'{name}: D-ECE {100 * item["d_ece"]:.1f} %'
    _finish(axes, title, 'score', 'precision; below 0: share of detections', legend=False)
    return _svg(figure)


def height_bins(bins: dict[str, dict[str, dict[str, Any]]]) -> str | None:
    """Draw AP by box height, one group of bars a bin, with intervals; faint where ground truths are few."""
    figure, axes = _figure(6.4, 3.3)
    names = list(bins)
    levels = list(next(iter(bins.values()), {}))
    width = 0.8 / max(1, len(names))
    drawn = False
    for i, (name, color) in enumerate(zip(names, COLORS)):
        for j, level in enumerate(levels):
            item = bins[name][level]
            if item['ap_r40'] is None or not item['valid_ground_truths']:
                continue
            x = j + (i - (len(names) - 1) / 2) * width
            axes.bar(x, item['ap_r40'], width * 0.92, color=color,
                     alpha=0.35 if item['few_ground_truths'] else 0.9)
            if item['ci95']:
                low, high = item['ci95']
                axes.plot([x, x], [low, high], color='#27313d', linewidth=1)
            light = item['ap_r40'] > 12 and not item['few_ground_truths']
            axes.annotate(str(item['valid_ground_truths']), (x, 0), xytext=(0, 3), fontsize=7, ha='center',
                          textcoords='offset points', color='white' if light else TEXT)
            drawn = True
    axes.set_xticks(range(len(levels)), [f'{level} px' for level in levels])
    axes.set_ylim(0, 100)
    axes.legend([Patch(color=color) for _, color in zip(names, COLORS)], [_plain(name) for name in names],
                frameon=False, fontsize=8.5)
    _finish(axes, 'AP by height of the box', 'box height (small is far); numbers: valid ground truths',
            'AP R40 [%]', legend=False)
    return _svg(figure) if drawn else None


def latency(histogram: dict[str, dict[str, Any]], stage: str) -> str | None:
    """Draw the histogram of one stage's durations."""
    item = histogram.get(stage)
    if not item:
        return None
    figure, axes = _figure(4.6, 2.9)
    edges = np.array(item['edges_ms'])
    axes.bar(edges[:-1], item['count'], np.diff(edges), align='edge', color='#0072B2')
    _finish(axes, stage, 'ms', 'frames', legend=False)
    return _svg(figure)
