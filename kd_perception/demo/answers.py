# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What came off the wire, by frame: who answered it and why, and the figures of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.demo.wire import DemoRun, PROVENANCE, STUDENT, VERIFIED
from kd_perception.fallback.provenance import Source
from kd_perception.messages import build as messages
from kd_perception.messages.typestore import deserialize, DIAGNOSTIC_ARRAY

SOURCES = tuple(source.value for source in Source)
FROM_TEACHER = (Source.TEACHER.value, Source.MERGED.value)
PERCENTILES = {'p50': 50, 'p95': 95, 'p99': 99, 'max': 100}

Key = tuple[str, int]     # camera, stamp in ns


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """
    The messages of one frame.

    :param raw: topic below the camera's namespace -> CDR message.
    :param facts: keys and values of the provenance; empty where there is no fallback.
    """

    raw: dict[str, bytes]
    facts: dict[str, str]

    @property
    def shown(self) -> bytes:
        """Return the CDR `Detection2DArray` that a consumer takes."""
        return self.raw.get(VERIFIED) or self.raw[STUDENT]

    @property
    def source(self) -> str:
        """Return whose detections they are; empty where there is no fallback."""
        return self.facts.get('source', '')

    @property
    def sent(self) -> bool:
        """Whether the teacher was asked, and the output waited for it."""
        return self.facts.get('sent') == 'yes'

    def number(self, key: str) -> float:
        """Return a fact as a number; NaN where there is none."""
        try:
            return float(self.facts.get(key, 'nan'))
        except ValueError:
            return float('nan')


def answers_of(run: DemoRun) -> dict[Key, Answer]:
    """Join the messages of a run by camera and stamp; of several of one topic the first counts."""
    found: dict[Key, dict[str, bytes]] = {}
    for topic, cameras in run.results.items():
        for camera, raws in cameras.items():
            for raw in raws:
                found.setdefault((camera, messages.parse_header(raw)[0]), {}).setdefault(topic, raw)
    base = VERIFIED if VERIFIED in run.results else STUDENT
    return {key: Answer(raw, _facts(raw.get(PROVENANCE))) for key, raw in found.items() if base in raw}


def detections_of(raw: bytes, labels: Sequence[str]) -> tuple[Detections, tuple[str, ...]]:
    """
    Read a CDR `Detection2DArray`.

    :return: (detections in px of the image, class names); an unknown class has the id `len(labels)`.
    """
    _, _, boxes, scores, names = messages.parse_detection_array(raw)
    ids = [labels.index(name) if name in labels else len(labels) for name in names]
    return Detections(boxes, scores, np.array(ids, np.int64)), names


def _facts(raw: bytes | None) -> dict[str, str]:
    if raw is None:
        return {}
    return {pair.key: pair.value for status in deserialize(raw, DIAGNOSTIC_ARRAY).status
            for pair in status.values}


def verified_figures(run: DemoRun, answers: Mapping[Key, Answer]) -> dict[str, Any]:
    """
    Count what the fallback answered.

    Percentiles are in ms; `waited` runs from the student's result to the verified message, `teacher` from
    sending an image to its answer.
    """
    student, verified = (_stamps(run.results[topic]) for topic in (STUDENT, VERIFIED))
    facts = [answer for answer in answers.values() if answer.facts]
    sent = [answer for answer in facts if answer.sent]
    return {
        'messages': sum(verified.values()), 'student_results': sum(student.values()),
        'lost': sum((student - verified).values()), 'doubled': sum((verified - student).values()),
        'without_provenance': len(answers) - len(facts),
        'sources': _counted((answer.source for answer in facts), SOURCES),
        'reasons': _counted(answer.facts['reason'] for answer in facts),
        'unverified': _counted(answer.facts['unverified'] for answer in facts),
        'sent': len(sent), 'sent_share': round(len(sent) / len(facts), 4) if facts else 0.0,
        'probes': sum(answer.facts['sent'] == 'probe' for answer in facts),
        'deadline_met': sum(answer.facts['deadline_met'] == 'true' for answer in facts),
        'waited_ms': percentiles(answer.number('waited_ms') for answer in facts),
        'waited_when_sent_ms': percentiles(answer.number('waited_ms') for answer in sent),
        'teacher_ms': percentiles(answer.number('teacher_ms') for answer in facts)}


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """Return median, 95 %, 99 % and maximum of the numbers among them; empty where there is none."""
    known = np.array([value for value in values if np.isfinite(value)])
    return {name: round(float(np.percentile(known, share)), 3)
            for name, share in PERCENTILES.items()} if len(known) else {}


def _stamps(results: Mapping[str, Sequence[bytes]]) -> Counter:
    return Counter((camera, messages.parse_header(raw)[0])
                   for camera, raws in results.items() for raw in raws)


def _counted(names: Iterable[str], order: Sequence[str] = ()) -> dict[str, int]:
    """Count names that are not empty: in the given order, else the most frequent first."""
    counts = Counter(name for name in names if name)
    first = [name for name in order if name in counts]
    return {name: counts[name] for name in [*first, *(n for n, _ in counts.most_common() if n not in first)]}


@dataclasses.dataclass(frozen=True)
class Span:
    """A state between two moments of the recorded time (ns), and what the fallback said of it."""

    start_ns: int
    end_ns: int
    state: str
    message: str


def states_of(run: DemoRun, camera: str, start_ns: int, end_ns: int) -> list[Span]:
    """
    Return a camera's states between two moments, as reported once a second; a report holds until the next.

    What was reported last before the start holds there: it has no recorded time.
    """
    changes: list[tuple[int, str, str]] = []
    for stamp_ns, raw in run.diagnostics:
        for status in deserialize(raw, DIAGNOSTIC_ARRAY).status:
            state = {pair.key: pair.value for pair in status.values}.get('state')
            if status.name == f'fallback: camera {camera}' and state:
                changes.append((max(stamp_ns, start_ns), state, status.message))
    spans: list[Span] = []
    ends = [change[0] for change in changes[1:]] + [end_ns]
    for (begin_ns, state, message), stop_ns in zip(changes, ends):
        stop_ns = min(stop_ns, end_ns)
        if stop_ns <= begin_ns:
            continue
        if spans and spans[-1].state == state and spans[-1].end_ns == begin_ns:
            spans[-1] = dataclasses.replace(spans[-1], end_ns=stop_ns)
        else:
            spans.append(Span(begin_ns, stop_ns, state, message))
    return spans
