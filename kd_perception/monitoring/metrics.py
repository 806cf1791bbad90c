# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
From reports on /diagnostics to metrics: named ones by `metric_table`, all other numbers by one rule.

The rule, for a value that the table does not name, of component W (for `camera NAME W` with the label
`camera`): the metric is `kd_perception_W_KEY`, in base units (`_ms` becomes `_seconds`, `_hz` `_hertz`),
with the labels `node` and `component`. `GROUP.REST` becomes `kd_perception_W_GROUP` with the label `key`;
`dropped.REASON` and the percentiles `STAGE.p95_ms` become what they are in the table; a key that ends in
`_total` is a counter. Words are left out, but for a `state`, which becomes a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import functools
import math
import re
import threading
from typing import NamedTuple

from kd_perception.levels import Report
from kd_perception.monitoring.board import DiagnosticsBoard, RawStatus
from kd_perception.monitoring.metric_table import (
    CAMERA,
    CAMERA_KEY,
    CHOICES,
    COMMON,
    DRIFT,
    FALLBACK,
    FALLBACK_KEY,
    INFOS,
    LIFECYCLE_STATES,
    MetricSpec,
    MODEL,
    OMITTED,
    PREFIX,
    QUANTILES,
    RECORDER,
    TABLE,
    TEACHER,
)

# Why a value or a series is refused, beyond the reasons of the board.
BAD_NUMBER, NOT_FINITE, UNKNOWN_STATE, NAME_TAKEN, TOO_MANY_SERIES = (
    'bad_number', 'not_finite', 'unknown_state', 'name_taken', 'too_many_series')
# Not known yet, or without bound.
NO_VALUE = ('', 'unknown', 'inf')
MAX_STATE_CHARS = 40
_NUMBER = re.compile(r'[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?', re.IGNORECASE)
_NOT_FINITE = re.compile(r'[+-]?(nan|inf|infinity)', re.IGNORECASE)
_COMPONENT = re.compile(r'camera (\S+)(?: (.+))?')
_UNITS = {'_ms': ('_seconds', 1e-3), '_s': ('_seconds', 1.0), '_ns': ('_seconds', 1e-9),
          '_hz': ('_hertz', 1.0)}
_FACTS = {(source, key) for source, _, _, keys in INFOS for key in keys.values()} | {
    (source, 'lifecycle') for source in (CAMERA, MODEL, FALLBACK, TEACHER, RECORDER, DRIFT)}
_NAMED = {PREFIX + name for name in (
    *COMMON, *(spec.name for spec in TABLE), *(name for _, name, _, _ in INFOS))}
_GENERIC = 'A value of /diagnostics that has no name of its own.'
_LATENCY = re.compile(r'(.+)\.(p50|p95|p99|max)_ms')


class Sample(NamedTuple):
    """One series and its value now; `labels` are in alphabetical order."""

    name: str
    type: str
    labels: tuple[tuple[str, str], ...]
    value: float
    description: str


class Family(NamedTuple):
    """All series of a metric; `type` is `counter` or `gauge`."""

    name: str
    type: str
    description: str
    samples: list[Sample]


Refuse = Callable[[str], None]


def samples_of(node: str, report: Report, refuse: Refuse = lambda reason: None) -> list[Sample]:
    """
    Return the metrics of one component.

    :param refuse: called with the reason for each value that is not what its key promises.
    """
    values = dict(report.values)
    source, camera = source_of(report.name, values)
    labels = {'node': node, **({'camera': camera} if camera else {})}
    samples = []
    for key, text in report.values:
        if (source, key) in _FACTS:
            continue
        spec, own = _named(source, key)
        if spec is None:
            samples += _generic(source, key, text, {**labels, 'component': report.name}, refuse)
        elif spec.name:
            samples += _of_spec(spec, text, {**labels, **own}, refuse)
    for of, name, description, keys in INFOS:
        if of == source and values.get(next(iter(keys.values()))):
            samples.append(_sample(name, 'gauge', {
                **labels, **{label: values.get(key, '') for label, key in keys.items()}}, 1.0, description))
    return samples


def source_of(component: str, values: Mapping[str, str]) -> tuple[str, str]:
    """Return what a component is, as in the table or else its words, and its camera."""
    match = _COMPONENT.fullmatch(component)
    if not match:
        return component or 'node', ''
    camera, rest = match.groups()
    if rest:
        return rest, camera
    return FALLBACK if FALLBACK_KEY in values else CAMERA if CAMERA_KEY in values else 'camera_value', camera


_SKIPPED = MetricSpec('', '', '', 'gauge', '')


@functools.lru_cache(maxsize=4096)
def _named(source: str, key: str) -> tuple[MetricSpec | None, dict[str, str]]:
    """Return the metric that a key is for and the labels in the key; None: the rule decides."""
    if any(source == of and MetricSpec(of, omitted, '', 'gauge', '').pattern.fullmatch(key)
           for of, omitted in OMITTED):
        return _SKIPPED, {}
    for spec in TABLE:
        match = spec.pattern.fullmatch(key) if spec.source == source else None
        if match:
            labels = match.groupdict()
            chosen = {label: CHOICES[label].get(text, '')
                      for label, text in labels.items() if label in CHOICES}
            if all(chosen.values()):
                return spec, {**labels, **chosen}
    return None, {}


def _of_spec(spec: MetricSpec, text: str, labels: dict[str, str], refuse: Refuse) -> list[Sample]:
    if spec.type == 'states':
        return _states(spec.name, text, spec.states, labels, spec.description, refuse)
    value = _number(text, spec.type == 'counter')
    if isinstance(value, str):
        refuse(value)
    if not isinstance(value, float):
        return []
    return [_sample(spec.name, spec.type, labels, value * spec.scale, spec.description)]


def _states(name: str, text: str, states: tuple[str, ...], labels: dict[str, str], description: str,
            refuse: Refuse) -> list[Sample]:
    """Return one series a state: which states there are is then known before one is reached."""
    if text not in states:
        refuse(UNKNOWN_STATE)
        return []
    return [_sample(name, 'gauge', {**labels, 'state': state}, float(state == text), description)
            for state in states]


def _generic(source: str, key: str, text: str, labels: dict[str, str], refuse: Refuse) -> list[Sample]:
    """Apply the rule of this module."""
    if key == 'state' and len(text) <= MAX_STATE_CHARS:
        return _unless_taken(f'{_word(source)}_state', 'gauge', {**labels, 'state': text}, 1.0, refuse)
    text = {'true': '1', 'false': '0'}.get(text, text)
    if text in NO_VALUE or not (_NUMBER.fullmatch(text) or _NOT_FINITE.fullmatch(text)):
        return []
    latency, scale = _LATENCY.fullmatch(key), 1.0
    if latency:
        labels = {**labels, 'stage': latency[1], 'quantile': QUANTILES[latency[2]]}
        name, scale = 'latency_seconds', 1e-3
    elif key.startswith('dropped.'):
        name, labels = 'dropped_total', {**labels, 'reason': key.partition('.')[2]}
    else:
        unit = next((unit for unit in _UNITS if key.endswith(unit)), '')
        group, _, rest = key.removesuffix(unit).partition('.')
        suffix, scale = _UNITS.get(unit, ('', 1.0))
        name = _word(group) + suffix
        labels = {**labels, 'key': rest} if rest else labels
    # The whole name counts: a key TOTAL makes one that ends like a counter's.
    kind = 'counter' if f'{_word(source)}_{name}'.endswith('_total') else 'gauge'
    value = _number(text, kind == 'counter')
    if not isinstance(value, float):
        refuse(value or BAD_NUMBER)
        return []
    return _unless_taken(f'{_word(source)}_{name}', kind, labels, value * scale, refuse)


def _unless_taken(name: str, kind: str, labels: dict[str, str], value: float, refuse: Refuse) -> list[Sample]:
    sample = _sample(name, kind, labels, value, _GENERIC)
    if sample.name in _NAMED:
        refuse(NAME_TAKEN)
        return []
    return [sample]


def _sample(name: str, kind: str, labels: dict[str, str], value: float, description: str) -> Sample:
    return Sample(PREFIX + name, kind, tuple(sorted(labels.items())), value, description)


def _number(text: str, counts: bool) -> float | str | None:
    """Return the number, the reason why it is none, or None where there is none yet."""
    if text in NO_VALUE:
        return None
    if _NOT_FINITE.fullmatch(text):
        return NOT_FINITE
    if not _NUMBER.fullmatch(text):
        return BAD_NUMBER
    value = float(text)
    if not math.isfinite(value):
        return NOT_FINITE
    return BAD_NUMBER if counts and value < 0 else value


def _word(text: str) -> str:
    """Return a part of a metric's name (Prometheus permits [a-zA-Z0-9_:])."""
    return re.sub('[^a-z0-9]+', '_', text.lower()).strip('_') or 'value'


class MetricsExporter:
    """
    What a scrape gets. Thread-safe.

    :param max_series: so many different series are given out in the life of this object, the first ones that
        were heard: who publishes ever new names cannot fill the memory of Prometheus.
    """

    def __init__(self, board: DiagnosticsBoard, max_series: int):
        """Start with nothing heard."""
        self.board, self._max_series = board, max_series
        self._lock = threading.Lock()
        self._series: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
        self._families: dict[str, str] = {}     # name without `_total` -> name

    def hear(self, statuses: Iterable[RawStatus]) -> None:
        """Take the statuses of one message on /diagnostics."""
        for node, report in self.board.hear(statuses):
            self._claim(_level(node, report))
            found: set = set()
            for sample in samples_of(node, report, self.board.refuse):
                key = sample.name, sample.labels
                if key in found:
                    self.board.refuse(NAME_TAKEN)
                found.add(key)
                self._claim(sample)

    def families(self) -> list[Family]:
        """Return all metrics as of now, in alphabetical order, each series once."""
        found: dict[str, Family] = {}
        seen = set()
        for sample in self._samples():
            key = sample.name, sample.labels
            if key not in seen:
                seen.add(key)
                family = found.setdefault(sample.name, Family(*sample[:2], sample.description, []))
                family.samples.append(sample)
        return [found[name] for name in sorted(found)]

    def _samples(self) -> Iterable[Sample]:
        for view in self.board.views():
            reports = [report for report in view.reports if self._claimed(_level(view.name, report))]
            if not reports:
                continue
            labels = {'node': view.name}
            yield _common('node_up', labels, float(view.alive))
            yield _common('node_report_age_seconds', labels, view.age_ns / 1e9)
            if view.lifecycle in LIFECYCLE_STATES:
                for state in LIFECYCLE_STATES:
                    now = float(state == view.lifecycle)
                    yield _common('lifecycle_state', {**labels, 'state': state}, now)
            for report in reports:
                yield _level(view.name, report)
                if view.alive:      # a rate that nobody measures any more must not look like one
                    yield from filter(self._claimed, samples_of(view.name, report))
        yield _common('diagnostics_messages_total', {}, float(self.board.messages))
        for reason, count in self.board.refused.items():
            yield _common('diagnostics_refused_total', {'reason': reason}, float(count))
        with self._lock:
            yield _common('exporter_series', {}, float(len(self._series)))

    def _claim(self, sample: Sample) -> None:
        key, base = (sample.name, sample.labels), sample.name.removesuffix('_total')
        with self._lock:
            if key in self._series:
                return
            # In the OpenMetrics format a counter's family has the name without the suffix.
            taken = self._families.get(base, sample.name) != sample.name
            full = len(self._series) >= self._max_series
            if not taken and not full:
                self._families[base] = sample.name
                self._series.add(key)
                return
        self.board.refuse(NAME_TAKEN if taken else TOO_MANY_SERIES)

    def _claimed(self, sample: Sample) -> bool:
        with self._lock:
            return (sample.name, sample.labels) in self._series


def _level(node: str, report: Report) -> Sample:
    return _common('status_level', {'node': node, 'component': report.name}, float(report.level))


def _common(name: str, labels: dict[str, str], value: float) -> Sample:
    kind, _, description = COMMON[name]
    return _sample(name, kind, labels, value, description)
