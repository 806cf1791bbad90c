# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The table and the plot of an ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from pathlib import Path
from typing import Any

import numpy as np

Results = Sequence[Mapping[str, Any]]
MISS_RATE = 'miss_rate'


def summarise(results: Results, titles: Mapping[str, str], reference: str) -> dict[str, Any]:
    """
    Gather the runs of each arm.

    :param results: documents of `Ablation.run`.
    :param titles: arm -> title, in the order of the table.
    :param reference: arm whose figures are subtracted, seed by seed, for `difference`.
    :return: set -> figure -> arm -> values (one a seed), mean, deviation (sample; None for one seed), and
        difference: the same of value minus the reference's value of the same seed. Figures: the AP of each
        class and miss_rate, 0 to 1.
    """
    sets: dict[str, Any] = {}
    for name in (results[0]['sets'] if results else ()):
        counts = {label: entry['objects'] for label, entry in results[0]['sets'][name].items()
                  if isinstance(entry, dict)}
        figures: dict[str, Any] = {}
        for figure in (*counts, MISS_RATE):
            values = {arm: {r['seed']: _figure(r['sets'][name], figure) for r in results if r['arm'] == arm}
                      for arm in titles}
            figures[figure] = {arm: {**_spread(list(found.values())),
                                     'difference': _spread([value - values[reference][seed]
                                                            for seed, value in found.items()
                                                            if seed in values[reference]])}
                               for arm, found in values.items() if found}
        sets[name] = {'objects': {**counts, MISS_RATE: results[0]['sets'][name].get('pedestrians')},
                      'figures': figures}
    return {'reference': reference, 'titles': dict(titles), 'sets': sets,
            'runs': [{key: r[key] for key in ('arm', 'seed', 'steps')} for r in results]}


def _figure(entries: Mapping[str, Any], figure: str) -> float:
    value = entries.get(MISS_RATE) if figure == MISS_RATE else entries[figure]['ap50']
    return math.nan if value is None else float(value)


def _spread(values: Sequence[float]) -> dict[str, Any]:
    known = [value for value in values if math.isfinite(value)]
    return {'values': [round(value, 4) for value in known],
            'mean': round(float(np.mean(known)), 4) if known else None,
            'deviation': round(float(np.std(known, ddof=1)), 4) if len(known) > 1 else None}


def markdown(summary: Mapping[str, Any]) -> str:
    """Return a table for each set: mean and deviation over the seeds in percent; `(n)` counts objects."""
    lines: list[str] = []
    for name, entry in summary['sets'].items():
        shown = [figure for figure in entry['figures'] if entry['objects'].get(figure)]
        heads = [f'{"miss rate, pedestrians" if f == MISS_RATE else f"AP {f}"} ({entry["objects"][f]})'
                 for f in shown]
        lines += [f'**{name}**', '', '| arm | ' + ' | '.join(heads) + ' | seeds |',
                  '|---|' + '---|' * (len(heads) + 1)]
        for arm, title in summary['titles'].items():
            cells = [entry['figures'][figure].get(arm) for figure in shown]
            if not cells or cells[0] is None:
                continue
            lines.append(f'| {title} | ' + ' | '.join(map(_cell, cells))
                         + f' | {len(cells[0]["values"])} |')
        lines.append('')
    return '\n'.join(lines)


def _cell(spread: Mapping[str, Any]) -> str:
    if spread['mean'] is None:
        return '-'
    text = f'{100 * spread["mean"]:.1f}'
    return text if spread['deviation'] is None else f'{text} ± {100 * spread["deviation"]:.1f}'


def plot(summary: Mapping[str, Any], path: Path) -> None:
    """Draw every run as a dot and every arm's mean as a bar, one panel a figure; write PNG or SVG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from kd_perception.evaluation.report.plots import COLORS, GRID, TEXT
    panels = [(name, figure) for name, entry in summary['sets'].items() for figure in entry['figures']
              if (entry['objects'].get(figure) or 0) >= 10]
    arms = [arm for arm in summary['titles'] if any(run['arm'] == arm for run in summary['runs'])]
    columns = min(3, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    height = 0.9 + 0.26 * len(arms)
    figure = Figure(figsize=(2.2 + 3.2 * columns, height * rows), layout='constrained')
    FigureCanvasAgg(figure)
    axes = np.atleast_2d(figure.subplots(rows, columns, sharey=True, squeeze=False))
    for place, (name, shown) in zip(axes.flat, panels):
        found = summary['sets'][name]['figures'][shown]
        count = summary['sets'][name]['objects'][shown]
        for row, arm in enumerate(arms):
            values = 100 * np.array(found[arm]['values'])
            colour = COLORS[1] if arm == summary['reference'] else COLORS[0]
            place.barh(row, values.mean() if len(values) else 0, color=colour, alpha=0.35, height=0.7)
            place.plot(values, [row] * len(values), 'o', color=colour, markersize=4)
        miss = shown == MISS_RATE
        place.set_title(f'{name}: {"miss rate" if miss else "AP " + shown} (n = {count})',
                        fontsize=9.5, color=TEXT, loc='left', fontweight='bold')
        place.set_xlabel('percent of pedestrians missed (lower is better)' if miss else 'percent',
                         fontsize=8.5)
        place.grid(True, axis='x', color=GRID, linewidth=0.7)
        place.set_axisbelow(True)
        for side in ('top', 'right'):
            place.spines[side].set_visible(False)
    for place in axes.flat[len(panels):]:
        place.set_visible(False)
    for place in axes[:, 0]:
        place.set_yticks(range(len(arms)), [summary['titles'][arm] for arm in arms])
        place.tick_params(axis='y', labelsize=8.5)
    axes[0, 0].invert_yaxis()
    figure.savefig(path, dpi=110)
