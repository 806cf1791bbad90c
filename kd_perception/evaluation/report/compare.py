# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Compare two report.json files: what became better or worse, and is it more than chance?"""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
import json
import math
import os
from typing import Any

import numpy as np

from kd_perception.errors import EvaluationError
from kd_perception.evaluation.metrics.bootstrap import percentile_interval
from kd_perception.evaluation.report.content import SCHEMA, SCHEMA_VERSION

MAX_REPORT_BYTES = 64 * 1024 * 1024
# Metrics of which less is better, by the first part of their name.
_LESS_IS_BETTER = ('miss_rate', 'latency_ms', 'calibration')
_COMPARED = ('results', 'miss_rate', 'calibration', 'coco', 'latency_ms')


@dataclass(frozen=True)
class Delta:
    """
    One metric in both reports.

    :ivar before, after: None where a report has no figure.
    :ivar interval: 95 % interval of the difference, None where a report has none.
    """

    name: str
    before: float | None
    after: float | None
    interval: tuple[float, float] | None

    @property
    def less_is_better(self) -> bool:
        """True for miss rates, calibration errors and latencies."""
        return self.name.split('.')[0] in _LESS_IS_BETTER

    @property
    def difference(self) -> float | None:
        """after - before."""
        return None if self.before is None or self.after is None else self.after - self.before

    @property
    def loss(self) -> float:
        """By how much the metric became worse; infinite where the figure is gone."""
        if self.difference is None:
            return math.inf if self.before is not None else 0.0
        return self.difference if self.less_is_better else -self.difference

    @property
    def beyond_chance(self) -> bool:
        """True where the interval of the difference leaves out 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def load_report(path: str | os.PathLike) -> dict[str, Any]:
    """Read a report.json; EvaluationError where it is none, or of another version."""
    try:
        with open(path, 'rb') as file:
            data = file.read(MAX_REPORT_BYTES + 1)
    except OSError as error:
        raise EvaluationError(f'{path}: cannot be read: {error.strerror}') from None
    if len(data) > MAX_REPORT_BYTES:
        raise EvaluationError(f'{path}: larger than {MAX_REPORT_BYTES} bytes, not a report')
    try:
        report = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f'{path}: not JSON: {error}') from None
    if not isinstance(report, dict) or report.get('schema') != SCHEMA:
        raise EvaluationError(f'{path}: not a report of `evaluate` (schema {SCHEMA!r} expected)')
    if report.get('schema_version') != SCHEMA_VERSION:
        raise EvaluationError(f'{path}: report version {report.get("schema_version")!r}, '
                              f'{SCHEMA_VERSION} expected')
    return report


def _walk(item: Any, name: str) -> Iterator[tuple[str, float | None]]:
    """Yield the numbers of a report by dotted name; lists (curves, intervals) are passed over."""
    if isinstance(item, dict):
        for key, value in item.items():
            yield from _walk(value, f'{name}.{key}' if name else str(key))
    elif item is None or (isinstance(item, (int, float)) and not isinstance(item, bool)):
        yield name, item


def metrics(report: dict[str, Any]) -> dict[str, float | None]:
    """Return every figure of a report by dotted name, such as ``results.Car.moderate.ap_r40``."""
    return dict(_walk({key: value for key, value in report.items() if key in (*_COMPARED, 'frames')}, ''))


def _details(report: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what stands beside a figure: its interval, its resamples; empty where nothing does."""
    parts = name.split('.')
    if parts[0] == 'miss_rate':
        return report.get('miss_rate_details', {}).get(parts[-1], {})
    if parts[-1] != 'ap_r40':
        return {}
    item = report
    for part in parts[:-1]:
        item = item.get(part, {})
    return item


def same_draws(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Return whether the resamples of both reports, by number, are draws of the same frames."""
    keys = ('resampling_sha256', 'bootstrap', 'seed')
    first, second = ([report.get('protocol', {}).get(key) for key in keys] for report in (before, after))
    return None not in first and first == second


def _interval(before: dict[str, Any], after: dict[str, Any], name: str,
              difference: float) -> tuple[float, float] | None:
    """Return the interval of a difference, by paired resamples where both reports hold them."""
    first, second = _details(before, name), _details(after, name)
    if same_draws(before, after) and first.get('resampled') and second.get('resampled'):
        pairs = zip(first['resampled'], second['resampled'])
        return percentile_interval(np.array([b - a for a, b in pairs if a is not None and b is not None]))
    halves = [(item['ci95'][1] - item['ci95'][0]) / 2 for item in (first, second) if item.get('ci95')]
    return None if len(halves) < 2 else (difference - math.hypot(*halves), difference + math.hypot(*halves))


def compare(before: dict[str, Any], after: dict[str, Any],
            names: Sequence[str] | None = None) -> list[Delta]:
    """
    Return the metrics of both reports, side by side.

    Two reports on the same frames, with the same seed, hold the figures of the same resamples: the interval
    of a difference is then that of the paired bootstrap. Otherwise it takes the two as independent (square
    root of the sum of squares); on the same frames that is too wide: what it calls a difference is one.

    :param names: only these; else AP R40, miss rates, calibration errors and latency percentiles.
    :raises EvaluationError: a name is in neither report.
    """
    first, second = metrics(before), metrics(after)
    if names is None:
        endings = ('.ap_r40', '.d_ece', '.p50', '.p95', '.p99')
        chosen = [name for name in {**first, **second} if name.split('.')[0] in _COMPARED
                  and (name.endswith(endings) or name.startswith(('miss_rate.', 'coco.mean.ap')))]
    else:
        chosen = list(names)
        for name in chosen:
            if name not in first and name not in second:
                raise EvaluationError(f'metric {name!r} is in neither report, a name such as '
                                      'results.Car.moderate.ap_r40 expected')
    deltas = []
    for name in chosen:
        a, b = first.get(name), second.get(name)
        interval = None if a is None or b is None else _interval(before, after, name, b - a)
        deltas.append(Delta(name, a, b, interval))
    return deltas
