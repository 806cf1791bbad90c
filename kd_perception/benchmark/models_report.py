# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Tables and plot of `benchmark models`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# One more than there are colours, so that the pair tells 42 models apart.
MARKERS = 'osD^vP*'


def markdown(report: dict[str, Any]) -> str:
    """Return the report as tables for each number of threads: medians, with quartiles for the ratios."""
    machine = report['machine']
    height, width = report['image_hw']
    lines = [f'{machine["cpu"]}, {machine["cores"]} cores, load {machine["load_average_at_start"]}, '
             f'onnxruntime {machine["onnxruntime"]}; {report["rounds"]} rounds on {width}x{height} px; '
             'medians in ms, and how many times as fast as the first (quartiles over the rounds)', '']
    for threads, entries in report['threads'].items():
        energy = any(entry.get('energy_mj') is not None for entry in entries)
        lines += [f'{threads} thread{"s" * (threads != "1")}', '',
                  '| model | input | file, bytes | create | inference | total | inference, times as fast '
                  '| total, times as fast | peak memory, MB |' + ' energy, mJ |' * energy,
                  '|---|---|---|---|---|---|---|---|---|' + '---|' * energy]
        for entry in entries:
            peak = f'{entry["rss_peak_mb"]:.0f}' if 'rss_peak_mb' in entry else '-'
            lines.append(
                f'| {entry["name"]} | {entry["input_hw"][1]}x{entry["input_hw"][0]} | {entry["bytes"]:,} '
                f'| {entry.get("create_ms", entry["load_ms"]):.0f} | {entry["inference_ms"][1]:.1f} '
                f'| {entry["total_ms"][1]:.1f} | {_spread(entry["inference_ratio"])} '
                f'| {_spread(entry["ratio"])} | {peak} |'
                + (f' {_number(entry["energy_mj"])} |' if energy else ''))
        lines.append('')
    for threads, found in report.get('batch', {}).items():
        lines += [f'Images at once, {threads} thread{"s" * (threads != "1")}: inference in ms an image, '
                  'and how many times as fast as one by one', '',
                  '| images | ms an image | times as fast |', '|---|---|---|',
                  *(f'| {size} | {entry["ms_an_image"][1]:.2f} | {_spread(entry["ratio"])} |'
                    for size, entry in found.items()), '']
    lines += _accuracy(report)
    return '\n'.join(lines)


def _spread(quartiles: list[float]) -> str:
    low, median, high = quartiles
    return f'{median:.2f} [{low:.2f}, {high:.2f}]'


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.1f}'


# Of a class that a model does not know.
UNKNOWN: dict[str, Any] = {'ap50': None}


def _accuracy(report: dict[str, Any]) -> list[str]:
    entries = next(iter(report['threads'].values()))
    if 'accuracy' not in entries[0]:
        return []
    names = list(entries[0]['accuracy'])
    counts = ', '.join(f'{name} {entries[0]["accuracy"][name]["objects"]}' for name in names)
    lines = [f'AP at IoU 0.5, objects above 25 px, {report["labelled_images"]} images ({counts}); 95 % '
             'bootstrap interval over images', '', '| model | input | ' + ' | '.join(names) + ' | mean |',
             '|---|---|' + '---|' * (len(names) + 1)]
    for entry in entries:
        cells = []
        for name in names:
            found = entry['accuracy'].get(name, UNKNOWN)
            interval = found.get('interval95')
            cells.append('-' if found['ap50'] is None else f'{found["ap50"]:.3f}' + (
                '' if interval is None else f' [{interval[0]:.2f}, {interval[1]:.2f}]'))
        lines.append(f'| {entry["name"]} | {entry["input_hw"][1]}x{entry["input_hw"][0]} | '
                     + ' | '.join(cells) + f' | {_mean(entry["accuracy"]):.3f} |')
    return [*lines, '']


def _mean(accuracy: dict[str, Any]) -> float:
    values = [found['ap50'] for found in accuracy.values() if found['ap50'] is not None]
    return sum(values) / len(values) if values else float('nan')


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw the median time, with labels accuracy against it, for the first number of threads; write PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    from kd_perception.evaluation.report.plots import COLORS, GRID, TEXT
    threads, entries = next(iter(report['threads'].items()))
    labels = [f'{entry["name"]} {entry["input_hw"][1]}x{entry["input_hw"][0]}' for entry in entries]
    classes = [name for name, found in entries[0].get('accuracy', {}).items() if found['objects'] >= 10]
    panels = max(1, len(classes))
    figure = Figure(figsize=(2.6 + 4.2 * panels, 1.4 + 0.4 * len(entries)), layout='constrained')
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, panels, squeeze=False)[0], classes or [None]):
        for number, (entry, label) in enumerate(zip(entries, labels)):
            low, median, high = entry['total_ms']
            colour = COLORS[number % len(COLORS)]
            if name is None:
                axes.barh(number, median, color=colour, xerr=[[median - low], [high - median]])
                continue
            found = entry['accuracy'].get(name, UNKNOWN)
            accuracy = 100 * (found['ap50'] or 0)
            axes.plot(median, accuracy, MARKERS[number % len(MARKERS)], color=colour, label=label)
            if found.get('interval95'):
                axes.vlines(median, *(100 * bound for bound in found['interval95']), color=colour, alpha=0.4)
        if name is None:
            axes.set_yticks(range(len(labels)), labels)
            axes.invert_yaxis()
        else:
            axes.set_xscale('log')
            low, high = axes.get_xlim()
            axes.set_xticks([ms for ms in (1, 2, 5, 10, 20, 50, 100, 200, 500) if low < ms < high])
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_ylim(0, 100)
            axes.set_ylabel(f'AP {name} at IoU 0.5, percent', color=TEXT)
        axes.set_xlabel(f'ms an image, {threads} thread{"s" * (threads != "1")}', color=TEXT)
        axes.grid(True, color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        for side in ('top', 'right'):
            axes.spines[side].set_visible(False)
    if classes:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc='outside right upper', frameon=False,
                      fontsize=8.5)
    figure.savefig(path, dpi=110)
