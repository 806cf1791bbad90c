# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
May one model take another's place? Pairs of reports, one pair for each set of frames, give a verdict.

A test of non-inferiority: not `nothing was shown to be lost` but `it was shown that no more than this is
lost`. On a set that is too small to show it the verdict is no.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path
import re
from typing import Any

from kd_perception.config import from_mapping, to_mapping
from kd_perception.errors import ConfigError, EvaluationError
from kd_perception.evaluation.metrics.kitti_eval import MIN_GROUND_TRUTHS
from kd_perception.evaluation.report.compare import compare, load_report, MAX_REPORT_BYTES

SCHEMA = 'kd_perception.comparison'
SCHEMA_VERSION = 1
PASS, FAIL = 'pass', 'fail'
MISS_RATE_SUBSET = 'reasonable'
NEVER_DETECTED = 'class never detected'
# Rounding of figures is no loss.
_EPSILON = 1e-9


@dataclasses.dataclass(frozen=True)
class VerdictLimits:
    """
    What a model may lose against the one whose place it takes.

    :param max_ap_loss: points of AP R40 of any class and difficulty, in percent.
    :param max_ap_loss_bound: the same at the worse end of the 95 % interval of the difference.
    :param max_miss_rate_rise, max_miss_rate_rise_bound: of the log-average miss rate `reasonable`, 0 to 1.
    :param difficulties: those whose AP is judged.
    :param classes: those that are judged; empty: all that the reports evaluate.
    :param min_ground_truths: a class is judged on a set that holds so many valid ground truths of it.
    :param min_sets: so many sets of different labels, such as the site's and the one that the model was
        proved on: what was learnt on one may have been forgotten on another.
    """

    max_ap_loss: float = 2.0
    max_ap_loss_bound: float = 5.0
    max_miss_rate_rise: float = 0.03
    max_miss_rate_rise_bound: float = 0.10
    difficulties: tuple[str, ...] = ('moderate',)
    classes: tuple[str, ...] = ()
    min_ground_truths: int = MIN_GROUND_TRUTHS
    min_sets: int = 2

    def __post_init__(self):
        """Check ranges."""
        losses = (self.max_ap_loss, self.max_ap_loss_bound, self.max_miss_rate_rise,
                  self.max_miss_rate_rise_bound)
        if not all(map(math.isfinite, losses)):
            raise ValueError('losses must be finite')
        if min(self.max_ap_loss, self.max_miss_rate_rise, self.min_ground_truths - 1, self.min_sets - 1) < 0:
            raise ValueError('losses must not be below 0, counts not below 1')
        if (self.max_ap_loss_bound < self.max_ap_loss
                or self.max_miss_rate_rise_bound < self.max_miss_rate_rise):
            raise ValueError('the limit of a loss at its bound must not be below that of the loss')
        if not self.difficulties:
            raise ValueError('no difficulty to judge')


@dataclasses.dataclass(frozen=True)
class Check:
    """
    One figure on one set.

    :param loss: by how much it became worse. :param bound: at the worse end of its interval; None: it has
        none.
    :param failure: why it fails; empty: it does not.
    """

    metric: str
    before: float | None
    after: float | None
    loss: float | None
    bound: float | None
    ground_truths: int
    failure: str = ''


@dataclasses.dataclass(frozen=True)
class SetVerdict:
    """
    One set of frames.

    :param labels_sha256: what it is told apart by. :param before, after: the reports: path relative to the
        comparison's file, and sha256.
    :param not_judged: figures left out, each with its reason.
    """

    labels_sha256: str
    frames: int
    before: dict[str, str]
    after: dict[str, str]
    checks: tuple[Check, ...]
    not_judged: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """
    The verdict on two models, with everything that it rests on.

    :param before, after: name and sha256 of the models.
    :param failures: why the verdict is no, one line each; empty: it is yes.
    """

    before: dict[str, str]
    after: dict[str, str]
    limits: VerdictLimits
    sets: tuple[SetVerdict, ...]
    failures: tuple[str, ...]
    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION
    verdict: str = ''

    def __post_init__(self):
        """Let the verdict follow from the failures, and refuse one that does not."""
        expected = FAIL if self.failures else PASS
        if (self.schema, self.schema_version) != (SCHEMA, SCHEMA_VERSION):
            raise ValueError(f'schema is {self.schema!r:.60} {self.schema_version}, '
                             f'{SCHEMA!r} {SCHEMA_VERSION} expected')
        if self.verdict not in ('', expected):
            raise ValueError(f'verdict is {self.verdict!r:.20} with {len(self.failures)} failures')
        object.__setattr__(self, 'verdict', expected)
        if not self.failures and any(check.failure for item in self.sets for check in item.checks):
            raise ValueError(f'verdict is {expected!r}, and a check has failed')
        for model in (self.before, self.after):
            if not re.fullmatch('[0-9a-f]{64}', model.get('sha256', '')):
                raise ValueError('before and after name no sha256 of a model')

    @property
    def passed(self) -> bool:
        """Whether the second model may take the place of the first."""
        return self.verdict == PASS

    def text(self) -> str:
        """Return the comparison as JSON; `load_comparison` reads it."""
        return json.dumps(to_mapping(self), indent=1, allow_nan=False) + '\n'


def judge(pairs: Sequence[tuple[str | os.PathLike, str | os.PathLike]], limits: VerdictLimits,
          folder: str | os.PathLike) -> Comparison:
    """
    Compare two models on each set.

    :param pairs: report.json of the model before and of the one after, for each set of frames.
    :param folder: where the comparison will lie; the reports are named relative to it.
    :raises EvaluationError: no report, no model named in it, reports of a pair on different labels, or by
        different protocols, or pairs of different models.
    """
    try:
        return _judge(pairs, limits, folder)
    except (KeyError, TypeError, AttributeError) as error:
        names = ', '.join(str(path) for pair in pairs for path in pair)
        raise EvaluationError(
            f'{names}: not whole reports of this version ({type(error).__name__} {error})') from None


def _judge(pairs: Sequence[tuple[str | os.PathLike, str | os.PathLike]], limits: VerdictLimits,
           folder: str | os.PathLike) -> Comparison:
    loaded = [tuple(_load(path) for path in pair) for pair in pairs]
    models = [[_model(report, path) for (report, _), path in zip(reports, pair)]
              for reports, pair in zip(loaded, pairs)]
    for model, pair in zip(models, pairs):
        for (one, first), path in zip(zip(model, models[0]), pair):
            if one['sha256'] != first['sha256']:
                raise EvaluationError(f'{path}: model {one["sha256"][:12]}, the first pair is about '
                                      f'{first["sha256"][:12]}')
    sets, failures = [], []
    for ((before, before_digest), (after, after_digest)), (before_path, after_path) in zip(loaded, pairs):
        _check_alike(before, after, after_path)
        checks, not_judged = _checks(before, after, limits)
        sets.append(SetVerdict(
            before['data']['sha256']['labels'], after['frames']['processed'],
            {'report': os.path.relpath(before_path, folder), 'sha256': before_digest},
            {'report': os.path.relpath(after_path, folder), 'sha256': after_digest}, checks, not_judged))
        failures += [f'{after_path}: {check.metric}: {check.failure}' for check in checks if check.failure]
        lost = before['frames']['processed'] - after['frames']['processed']
        if lost > 0:
            failures.append(f'{after_path}: {lost} frames that the model before gave a result for have none')
    different = len({item.labels_sha256 for item in sets})
    if different < limits.min_sets:
        failures.append(f'judged on {different} sets of frames, expected at least {limits.min_sets}: '
                        "the site's and the one that the model was proved on")
    judged = {check.metric.split('.')[1] for item in sets for check in item.checks
              if check.metric.startswith('results.')}
    for name in limits.classes or loaded[0][1][0]['results']:
        if name not in judged:
            failures.append(f'class {name}: no set holds {limits.min_ground_truths} ground truths of it, '
                            'so that nothing is known of it')
    return Comparison(models[0][0], models[0][1], limits, tuple(sets), tuple(failures))


def _load(path: str | os.PathLike) -> tuple[dict[str, Any], str]:
    report = load_report(path)
    return report, file_sha256(path)


def file_sha256(path: str | os.PathLike) -> str:
    """Return a report's digest; EvaluationError where it cannot be read."""
    try:
        with open(path, 'rb') as file:
            return hashlib.sha256(file.read(MAX_REPORT_BYTES + 1)).hexdigest()
    except OSError as error:
        raise EvaluationError(f'{path}: cannot be read: {error.strerror}') from None


def _model(report: dict[str, Any], path: str | os.PathLike) -> dict[str, str]:
    return {'name': str(report.get('model', {}).get('name', '')), 'sha256': model_sha256(report, path)}


def model_sha256(report: dict[str, Any], path: str | os.PathLike) -> str:
    """Return the digest of the model that a report is about; EvaluationError where it names none."""
    model = report.get('model')
    digest = model.get('sha256') if isinstance(model, dict) else None
    if not isinstance(digest, str) or not re.fullmatch('[0-9a-f]{64}', digest):
        raise EvaluationError(f'{path}: names no model; a report of `evaluate --model` expected, '
                              'not of finished detections')
    return digest


def _check_alike(before: dict[str, Any], after: dict[str, Any], path: str | os.PathLike) -> None:
    for what, key in (('labels', lambda report: report['data']['sha256'].get('labels')),
                      ('classes', lambda report: report['protocol']['classes']),
                      ('difficulties', lambda report: report['protocol']['difficulties'])):
        if key(before) is None or key(before) != key(after):
            raise EvaluationError(f'{path}: other {what} than in the report that it is compared with')


def _checks(before: dict[str, Any], after: dict[str, Any],
            limits: VerdictLimits) -> tuple[tuple[Check, ...], tuple[str, ...]]:
    checks, not_judged = [], []

    def judge_one(name: str, count: int, *bounds: float) -> None:
        if count < limits.min_ground_truths:
            not_judged.append(f'{name}: {count} ground truths, expected at least {limits.min_ground_truths}')
        else:
            checks.append(_check(before, after, name, count, *bounds))

    for name in limits.classes or before['results']:
        levels = before['results'].get(name, {})
        for level in limits.difficulties:
            if level in levels:
                judge_one(f'results.{name}.{level}.ap_r40', levels[level]['valid_ground_truths'],
                          limits.max_ap_loss, limits.max_ap_loss_bound)
    details = before['miss_rate_details'].get(MISS_RATE_SUBSET)
    if details is not None:
        judge_one(f'miss_rate.{MISS_RATE_SUBSET}', details['valid_ground_truths'],
                  limits.max_miss_rate_rise, limits.max_miss_rate_rise_bound)
    return tuple(checks), tuple(not_judged)


def _check(before: dict[str, Any], after: dict[str, Any], name: str, count: int, most: float,
           most_bound: float) -> Check:
    delta, = compare(_with_zeros(before, name), _with_zeros(after, name), [name])
    if delta.after is None:
        return Check(name, delta.before, None, None, None, count, 'the figure is gone')
    if delta.before is None:
        return Check(name, None, delta.after, None, None, count)
    bound = None
    if delta.interval is not None:
        # Plus 0.0: there is no loss of -0.
        bound = (delta.interval[1] if delta.less_is_better else -delta.interval[0]) + 0.0
    failure = ''
    if delta.loss > most + _EPSILON:
        failure = f'worse by {delta.loss:.4g}, at most {most:g} allowed'
    elif bound is None:
        failure = 'has no interval; evaluate with --bootstrap'
    elif bound > most_bound + _EPSILON:
        failure = f'may be worse by {bound:.4g} (95 % interval), at most {most_bound:g} allowed'
    return Check(name, delta.before, delta.after, delta.loss + 0.0, bound, count, failure)


def _with_zeros(report: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the report with AP 0 for a class never detected, which the official program leaves undefined."""
    parts = name.split('.')
    if parts[0] != 'results' or report['results'][parts[1]][parts[2]].get('reason') != NEVER_DETECTED:
        return report
    level = {'ap_r40': 0.0, 'ci95': [0.0, 0.0], 'resampled': [0.0] * report['protocol']['bootstrap']}
    return {**report, 'results': {parts[1]: {parts[2]: level}}}


def load_comparison(path: str | os.PathLike) -> Comparison:
    """
    Read what `evaluate compare --verdict` wrote.

    :raises EvaluationError: one line that names the file: missing, no comparison, or at odds with itself.
    """
    try:
        with open(path, 'rb') as file:
            data = file.read(MAX_REPORT_BYTES + 1)
        mapping = json.loads(data)
    except OSError as error:
        raise EvaluationError(f'{path}: cannot be read: {error.strerror}') from None
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f'{path}: not JSON: {str(error):.100}') from None
    if not isinstance(mapping, dict) or mapping.get('schema') != SCHEMA:
        raise EvaluationError(f'{path}: not a comparison of `evaluate compare --verdict` (schema {SCHEMA!r} '
                              'expected)')
    try:
        return from_mapping(Comparison, mapping, str(path))
    except ConfigError as error:
        raise EvaluationError(str(error)) from None


def reports_of(comparison: Comparison, path: str | os.PathLike) -> list[Path]:
    """
    Return the reports on the model after, checked against their digests.

    :param path: of the comparison, which they are named relative to.
    :raises EvaluationError: one is missing, or is not the one that was compared.
    """
    found = []
    for item in comparison.sets:
        report = Path(path).parent / item.after['report']
        if file_sha256(report) != item.after['sha256']:
            raise EvaluationError(f'{report}: is not the report that {path} was made of; compare again')
        found.append(report)
    return found
