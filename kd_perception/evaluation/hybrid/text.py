# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What `evaluate hybrid` and `fit-gate` say: files of a report, and lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import json
from typing import Any

from kd_perception.evaluation.hybrid import plots
from kd_perception.evaluation.hybrid.fit import GateFit, weight_table
from kd_perception.evaluation.hybrid.page import render
from kd_perception.evaluation.report.folder import REPORT_HTML, REPORT_JSON


def report_files(report: dict[str, Any], title: str) -> dict[str, str | bytes]:
    """Return the files of a report by name, report.json last."""
    metric = next(iter(report['metrics'].values()))
    replay = next(iter(report['replay'].values()))
    return {'ap_share.png': plots.png(plots.ap_share, metric, report['share']),
            'ap_share_in_time.png': plots.png(plots.ap_share_in_time, metric, replay, report['share']),
            'risk_coverage.png': plots.png(plots.risk_coverage, metric), REPORT_HTML: render(report, title),
            REPORT_JSON: json.dumps(report, indent=1, allow_nan=False) + '\n'}


def _cell(value: Any, digits: int = 1, scale: float = 1.0) -> str:
    return '-' if value is None else f'{scale * value:.{digits}f}'


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the main figures as lines for a terminal."""
    for key, metric in report['metrics'].items():
        yield (f'{metric["text"]}, mean of {", ".join(metric["mean_over"])}: AP {metric["student_ap"]:.1f} '
               f'student, {metric["teacher_ap"]:.1f} teacher')
        shown = [share for share in metric['shares'] if 0 < share < 1]
        yield (f'  {"gate":<14}' + ''.join(f'{f"{100 * share:g} %":>7}' for share in shown)
               + f'{"recovered":>11}{"area":>7}{"AUROC":>7}')
        for name, gate in metric['gates'].items():
            values = dict(zip(metric['shares'], gate['ap']))
            pair = gate.get('recovered_ci95')
            yield (f'  {name:<14}' + ''.join(f'{_cell(values[share]):>7}' for share in shown)
                   + f'{_cell(gate["recovered_at_share"], 0, 100):>9} %{_cell(gate["relative_area"], 2):>7}'
                   + f'{_cell(gate["auroc_above_median"], 2):>7}'
                   + (f'  {100 * pair[0]:.0f} to {100 * pair[1]:.0f} %' if pair else ''))
        for item in report['online'][key]:
            yield (f'  online, {item["gate"]}, {item["threshold"]} threshold: {item["share_sent"]:.1%} sent, '
                   f'AP {item["ap"]:.1f}, {_cell(item["recovered"], 0, 100)} % recovered '
                   f'(random: {_cell(item["random_recovered_at_that_share"], 0, 100)} %)')
        yield from _replay_lines(report['replay'][key])


def _replay_lines(replay: Mapping[str, Any]) -> Iterator[str]:
    """Yield what each way recovers as the node decides, in time."""
    yield (f'  in time, scorer {replay["scorer"]}, teacher {replay["teacher_ms"]:g} ms; recovered [%], mean '
           f'and range of {replay["phases"]} phases')
    yield (f'    {"budget":<18}' + ''.join(f'{f"{100 * share:g} %":>16}' for share in replay['shares']))
    for name, way in replay['ways'].items():
        cells = (f'{_cell(mean, 0, 100)} [{_cell(low, 0, 100)}, {_cell(high, 0, 100)}]'
                 for mean, (low, high) in zip(way['recovered'], way['recovered_range']))
        yield (f'    {name:<18}' + ''.join(f'{cell:>16}' for cell in cells))


def fit_lines(result: GateFit) -> Iterator[str]:
    """Yield what `fit-gate` has fitted: skill on held-out frames, and the largest weights."""
    trained = result.fit.estimator.trained
    yield (f'{trained["frames"]} frames, {trained["folds"]} folds by {trained["held_out_by"]}, '
           f'l2 {trained["l2"]:g}; the teacher improves {trained["frames_improved"]:.0%} of the frames')
    yield f'{"set":<24}{"frames":>8}{"held-out skill":>16}   (0: as random, 1: ideal order)'
    for name, value in result.skill.items():
        yield f'{name:<24}{trained["sets"][name]:>8}{value:>16.2f}'
    area = trained['held_out_auroc']
    yield f'held-out AUROC of gaining more than the median of its set: {"-" if area is None else area}'
    yield f'{"feature":<24}{"weight":>8}   (standardised; the largest)'
    for name, weight, transform in weight_table(result.fit):
        yield f'{name:<24}{weight:>+8.3f}   {transform}'
