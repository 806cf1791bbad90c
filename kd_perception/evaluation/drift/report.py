# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What `evaluate drift` writes: a table in Markdown, and a plot of the delays."""
from typing import Any

import numpy as np

from kd_perception.evaluation.report import plots

# Monitor -> how the table calls it; the order of the columns.
MONITORS = {
    'any': 'any', 'ks': 'KS', 'psi': 'PSI', 'tails': 'tails CUSUM', 'ambiguity': 'ambiguity',
    'fallback': 'demand CUSUM', 'disagreement': 'disagreement CUSUM'}


def monitors_of(report: dict[str, Any]) -> list[str]:
    """Return the monitors that ran, in the order of `MONITORS`."""
    ran = {name for item in report['conditions'].values() for name in item['delays']}
    return [name for name in MONITORS if name in ran]


def markdown(report: dict[str, Any]) -> str:
    """Return the report as text for people."""
    reference, settings = report['reference'], report['settings']
    lines = [
        '# Drift monitors', '', f'Model {report["models"]["model"]}.',
        f'Reference: {reference["frames"]} frames in {reference["scenes"]} scenes. Window '
        f'{settings["window"]} frames, at most {settings["false_alarms_per_hour"]:g} false alarms an hour of '
        f'each component, scenes of {reference["scene_frames"]} frames at {reference["rate_hz"]:g} Hz.', '',
        '## False alarms on unchanged frames', '',
        '| scenes of the stream | frames | hours | alarms | an hour (95 %) | allowed |',
        '|---|---|---|---|---|---|']
    for item in report['false_alarms']:
        low, high = item['per_hour_ci95']
        lines.append(f'| {item["scene_frames"]} frames | {item["frames"]} | {item["hours"]:.1f} | '
                     f'{item["alarms"]} | {item["per_hour"]:.2f} ({low:.2f} to {high:.2f}) | '
                     f'{item["allowed_per_hour"]:g} |')
    if report['conditions']:
        lines += _delay_table(report)
    if report['rates']:
        lines += ['', '## What audits would say', '',
                  "Student against teacher, every frame taken as audited; 95 % intervals of Wilson's for as "
                  'many trials as the boxes are worth.', '',
                  '| frames | audited | teacher boxes missed | student boxes that the teacher does not see |',
                  '|---|---|---|---|']
        for name, rates in report['rates'].items():
            lines.append(f'| {name} | {rates["audited_frames"]} | {_rate(rates, "miss_rate")} | '
                         f'{_rate(rates, "false_alarm_rate")} |')
    return '\n'.join(lines) + '\n'


def _delay_table(report: dict[str, Any]) -> list[str]:
    settings, names = report['settings'], monitors_of(report)
    lines = [
        '', '## Delay', '',
        f'Median delay in frames (10 % to 90 %) of {settings["runs"]} changes; in brackets how many '
        f'raised an alarm within {settings["limit"]} frames, where not all did; late: fewer than half; '
        '-: none.', '',
        '| change | first seen by | ' + ' | '.join(MONITORS[name] for name in names) + ' |',
        '|---|---|' + '---|' * len(names)]
    for condition, item in report['conditions'].items():
        cells = [_cell(item['delays'].get(name), item['runs']) for name in names]
        lines.append(f'| {condition} | {first_test(item)} | ' + ' | '.join(cells) + ' |')
    return lines


def first_test(item: dict[str, Any]) -> str:
    """Return the test with the least median delay, where any has one."""
    medians = {name: delay['median'] for name, delay in item['delays'].items()
               if '.' in name and delay['median'] is not None}
    return min(medians, key=medians.__getitem__) if medians else '-'


def _cell(delay: dict[str, Any] | None, runs: int) -> str:
    if delay is None or not delay['alarmed']:
        return '-'
    some = '' if delay['alarmed'] == runs else f' [{delay["alarmed"]}]'
    if delay['median'] is None:
        return f'late{some}'
    high = delay['p90'] if delay['p90'] is not None else '...'
    return f'{delay["median"]} ({delay["p10"]} to {high}){some}'


def _rate(rates: dict[str, str], name: str) -> str:
    return f'{rates[name]} ({rates[f"{name}.low"]} to {rates[f"{name}.high"]}) of {rates[f"{name}.boxes"]}'


def draw(report: dict[str, Any]):
    """Draw the delays, a row a condition; return the figure."""
    names = [name for name in monitors_of(report) if name != 'any']
    conditions = list(report['conditions'])
    figure, axes = plots._figure(7.2, 1.4 + 0.62 * len(conditions))
    figure.subplots_adjust(left=0.2)
    limit = report['settings']['limit']
    farthest = report['settings']['window']
    for i, name in enumerate(names):
        first = True
        for row, condition in enumerate(conditions):
            delay = report['conditions'][condition]['delays'].get(name)
            if delay is None or delay['median'] is None:
                continue
            y = row + 0.6 * ((i + 0.5) / len(names) - 0.5)
            high = limit if delay['p90'] is None else delay['p90']
            farthest = max(farthest, high)
            color = plots.COLORS[i % len(plots.COLORS)]
            axes.plot([delay['p10'], high], [y, y], color=color, linewidth=1.2)
            axes.plot([delay['median']], [y], 'o', color=color, markersize=5,
                      label=MONITORS[name] if first else None)
            first = False
    axes.axvline(report['settings']['window'], color='#8a95a3', linewidth=0.8, linestyle='--', label='window')
    axes.set_yticks(np.arange(len(conditions)), [name.replace('_', ' ') for name in conditions])
    axes.set_ylim(len(conditions) - 0.4, -0.6)
    axes.set_xlim(0, 1.25 * farthest)
    plots._finish(axes, 'Frames from a change to the alarm (median, 10 % to 90 %)', 'frames', '')
    return figure
