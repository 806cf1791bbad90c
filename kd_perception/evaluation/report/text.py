# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Reports, comparisons and verdicts as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kd_perception.evaluation.report.compare import Delta
from kd_perception.evaluation.report.verdict import Comparison, PASS


def summary(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that say the main figures of a report."""
    yield f'{"class":<16}{"difficulty":<12}{"AP R40":>8}{"95 % interval":>18}{"AP R11":>8}{"valid":>8}'
    for name, levels in report['results'].items():
        for level, item in levels.items():
            interval = f'{item["ci95"][0]:.2f} to {item["ci95"][1]:.2f}' if item['ci95'] else ''
            few = ' (few)' if item['few_ground_truths'] else ''
            note = f' {item["reason"]}' if item.get('reason') else ''
            yield (f'{name:<16}{level:<12}{_shown(item["ap_r40"]):>8}{interval:>18}'
                   f'{_shown(item["ap_r11"]):>8}{item["valid_ground_truths"]:>8}{few}{note}')
    for name, value in report['miss_rate'].items():
        count = report['miss_rate_details'][name]['valid_ground_truths']
        yield f'log-average miss rate, {name}: {_shown(value, 100)} % ({count} ground truths)'
    for name, item in report['calibration'].items():
        yield f'D-ECE, {name}: ' + (f'{_shown(item["d_ece"], 100)} %' if item['d_ece'] is not None
                                    else item['reason'])
    frames, runtime = report['frames'], report['runtime']
    lost = ', '.join(f'{count} {reason}' for reason, count in frames['dropped'].items())
    yield (f'frames: {frames["total"]} in all, {frames["processed"]} with a result'
           + (f'; {lost}' if lost else ''))
    yield (f'{runtime["wall_s"]:.1f} s, {runtime["cpu_s"]:.1f} s of processor time, '
           f'{runtime["peak_memory_mib"]:.0f} MiB')


def differences(deltas: Sequence[Delta], worse: Mapping[str, float]) -> Iterator[str]:
    """
    Yield a table of what changed between two reports.

    :param worse: tolerance of each metric that became worse by more.
    """
    yield f'{"metric":<44}{"before":>10}{"after":>10}{"change":>10}  95 % interval'
    for delta in deltas:
        interval = ''
        if delta.interval is not None:
            interval = f'  {delta.interval[0]:+.3f} to {delta.interval[1]:+.3f}'
        change = '-' if delta.difference is None else f'{delta.difference:+.3f}'
        sign = ' *' if delta.beyond_chance else ''
        yield (f'{delta.name:<44}{_shown(delta.before, digits=3):>10}{_shown(delta.after, digits=3):>10}'
               f'{change:>10}{interval}{sign}{"  WORSE" if delta.name in worse else ""}')
    for delta in deltas:
        if delta.name in worse:
            yield f'worse: {delta.name} by {delta.loss:.4g}, tolerance {worse[delta.name]:g}'


def verdict(comparison: Comparison) -> Iterator[str]:
    """Yield a verdict: each figure that was judged, and why not where the answer is no."""
    before, after = (f'{model["name"]} {model["sha256"][:12]}'
                     for model in (comparison.before, comparison.after))
    yield f'\nmay {after} take the place of {before}?'
    for number, item in enumerate(comparison.sets, 1):
        yield f'set {number}: {item.frames} frames, labels {item.labels_sha256[:12]}'
        yield f'  {"figure":<36}{"loss":>10}{"at worst":>10}{"truths":>8}'
        for check in item.checks:
            loss, bound = ('-' if value is None else f'{value:+.3f}' for value in (check.loss, check.bound))
            yield (f'  {check.metric:<36}{loss:>10}{bound:>10}{check.ground_truths:>8}'
                   f'{"  FAIL" if check.failure else ""}')
        for text in item.not_judged:
            yield f'  not judged: {text}'
    for failure in comparison.failures:
        yield f'no: {failure}'
    if comparison.verdict == PASS:
        yield 'yes: no figure is worse than the limits allow'


def _shown(value: float | None, scale: float = 1.0, digits: int = 2) -> str:
    return '-' if value is None else f'{scale * value:.{digits}f}'
