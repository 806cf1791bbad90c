# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
What a fallback tells of one camera's drift: ambiguity, demand for the teacher, and how far it disagrees.

Frames audited by chance are a fair sample of all frames: with the teacher's answer in the place of the truth
they estimate what the student misses and invents now, on this road.
"""

from __future__ import annotations

from collections import deque, OrderedDict
from collections.abc import Callable, Sequence
import functools
import math
from typing import NamedTuple

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.drift.camera_drift import drift_report, NO_REFERENCE, read_reference, SWITCHED_OFF
from kd_perception.drift.change_tests import (
    cluster_trials,
    Cusum,
    cusum_threshold,
    greater_share,
    wilson_interval,
)
from kd_perception.drift.monitor import Alarm, BOUND, DriftSettings, DriftTests
from kd_perception.drift.quantities import AMBIGUITY
from kd_perception.drift.reference import DriftReference, QuantityReference
from kd_perception.fallback.gate import GateDecision
from kd_perception.levels import HeldLevel, Report
from kd_perception.models.spec import ModelSpec
from kd_perception.recording.disagreement import compare_boxes
from kd_perception.recording.recorded import Boxes

AUDITS = 1000           # audited frames that the rates are of, the newest
MAX_AWAITED = 256       # audited frames whose answer is awaited
MORE, LESS, DISAGREEMENT = 'fallback.more', 'fallback.less', 'disagreement.cusum'
HOLD_NS = 10_000_000_000


class Audit(NamedTuple):
    """One audited frame: objects that the teacher alone and the student alone sees, and all of each."""

    missed: int
    teacher: int
    invented: int
    student: int

    @property
    def disagreed(self) -> int:
        """Objects that one of the two does not see."""
        return self.missed + self.invented

    @property
    def objects(self) -> int:
        """Objects that either sees."""
        return self.teacher + self.invented


def audit(student: Detections, labels: Sequence[str], score: float, teacher: Detections,
          teacher_labels: Sequence[str]) -> Audit:
    """
    Compare both answers on one frame: pairs of IoU 0.5 and of one class agree.

    Classes that the student does not know are left out: they are not its fault.

    :param score: the student's working threshold; the teacher's boxes all count.
    """
    own = student.above(score)
    known = teacher.select(np.array([teacher_labels[i] in labels for i in teacher.class_ids], dtype=bool))
    first = Boxes(own.boxes_xyxy, own.scores, tuple(labels[i] for i in own.class_ids))
    second = Boxes(known.boxes_xyxy, known.scores, tuple(teacher_labels[i] for i in known.class_ids))
    agreed = len(compare_boxes(first, second).agreed)
    return Audit(len(known) - agreed, len(known), len(own) - agreed, len(own))


class AuditedRates:
    """Miss and false-alarm rate of the last `AUDITS` audited frames, with 95 % intervals."""

    def __init__(self):
        """Start with no frame."""
        self._audits: deque[Audit] = deque(maxlen=AUDITS)

    def add(self, found: Audit) -> None:
        """Take an audited frame."""
        self._audits.append(found)

    def clear(self) -> None:
        """Forget all frames."""
        self._audits.clear()

    def values(self) -> tuple[tuple[str, str], ...]:
        """
        Return the rates as key and value pairs.

        Intervals are Wilson's, for as many trials as the boxes are worth: those of a frame are correlated.
        """
        table = np.array(self._audits, dtype=np.int64).reshape(-1, 4)
        values = [('audited_frames', str(len(table)))]
        for name, hits, totals in (('miss_rate', table[:, 0], table[:, 1]),
                                   ('false_alarm_rate', table[:, 2], table[:, 3])):
            total = int(totals.sum())
            share = hits.sum() / total if total else math.nan
            low, high = wilson_interval(share, cluster_trials(hits, totals)) if total else (0.0, 1.0)
            values += [(name, f'{share:.3f}' if total else 'unknown'), (f'{name}.low', f'{low:.3f}'),
                       (f'{name}.high', f'{high:.3f}'), (f'{name}.boxes', str(total))]
        return tuple(values)


def demand_edge(quantity: QuantityReference, share: float) -> tuple[float, float]:
    """Return the decile that about `share` of the reference's frames lie above, and how many really do."""
    above = 1 - np.cumsum(quantity.shares)[:-1]
    i = int(np.abs(above - share).argmin())
    return quantity.edges[i], float(min(1.0, max(0.0, above[i])))


class FallbackTests:
    """
    The tests of one camera's fallback. Not thread-safe.

    Besides the windowed tests on the ambiguity: CUSUMs on the share of frames that would have gone to the
    teacher in the reference (above the score that `share` of its frames reached; what is really sent is held
    at the share by budget and threshold, whatever happens), and on the disagreement of audited frames.

    :param share, audit_share: of the gate.
    """

    def __init__(self, reference: DriftReference, quantity: QuantityReference, settings: DriftSettings,
                 share: float, audit_share: float):
        """Start with nothing seen."""
        disagreement = reference.disagreement if audit_share > 0 else None
        self._edge, above = demand_edge(quantity, share)
        low, high = wilson_interval(above, quantity.independent, BOUND)
        self.tests = DriftTests(reference, (quantity,), settings, extra=2 + (disagreement is not None))
        self._name = quantity.name
        self._more = self.tests.cusum(high, greater_share(high))
        self._less = self.tests.cusum(1 - low, greater_share(1 - low))
        self.alarms = {**self.tests.alarms, MORE: Alarm(MORE), LESS: Alarm(LESS)}
        self._disagreement: Cusum | None = None
        if disagreement is not None:
            p0 = wilson_interval(disagreement.share, disagreement.scenes, BOUND)[1]
            correlated = max(1.0, reference.scene_frames * audit_share)
            self._disagreement = Cusum(
                p0, greater_share(p0), correlated,
                cusum_threshold(self.tests.frames_per_alarm * audit_share, correlated))
            self.alarms[DISAGREEMENT] = Alarm(DISAGREEMENT)

    def add(self, ambiguity: float) -> None:
        """Take a frame's score; one that is not finite was not judged."""
        if not math.isfinite(ambiguity):
            return
        self.tests.update({self._name: float(ambiguity)})
        above = float(ambiguity > self._edge)
        for name, cusum, share in ((MORE, self._more, above), (LESS, self._less, 1 - above)):
            cusum.add(share)
            self.alarms[name].update(cusum.value, cusum.threshold)

    def audited(self, found: Audit) -> None:
        """Take an audited frame."""
        if self._disagreement is not None and found.objects:
            self._disagreement.add(found.disagreed / found.objects)
            self.alarms[DISAGREEMENT].update(self._disagreement.value, self._disagreement.threshold)


class FallbackDrift:
    """
    One camera's drift as its fallback sees it. Not thread-safe.

    :param spec: of the student. :param scorer: name of the judge.
    :param score: the student's working threshold. :param teacher_labels: by class id.
    :param clock: steady clock, nanoseconds; for the level's hysteresis only.
    """

    def __init__(self, name: str, hardware_id: str, spec: ModelSpec, scorer: str, score: float,
                 teacher_labels: Sequence[str], share: float, audit_share: float, settings: DriftSettings,
                 clock: Callable[[], int]):
        """Start with nothing seen."""
        self.name, self.hardware_id = name, hardware_id
        self._labels, self._teacher_labels, self._score = spec.labels, tuple(teacher_labels), score
        self._settings, self._clock = settings, clock
        reference, self._problem = read_reference(spec) if settings.enabled else (None, '')
        quantities = reference.select(scorer) if reference else ()
        self._make: Callable[[], FallbackTests | None] = lambda: None
        if reference and quantities:
            self._make = functools.partial(
                FallbackTests, reference, quantities[0], settings, share, audit_share)
        self._idle = (SWITCHED_OFF if not settings.enabled else NO_REFERENCE if reference is None
                      else f'{NO_REFERENCE} of {AMBIGUITY}{scorer}')
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._tests: FallbackTests | None = self._make()
        self._rates = AuditedRates()
        self._awaited: OrderedDict[int, Detections] = OrderedDict()
        self._held = HeldLevel(HOLD_NS)

    def student(self, sequence: int, decision: GateDecision, detections: Detections) -> None:
        """Take a student's result and what the gate said of it."""
        if not self._settings.enabled:
            return
        if self._tests is not None:
            self._tests.add(decision.score)
        # Probes are sent when the teacher was out, others because they are ambiguous: no fair samples.
        if decision.audit and decision.send and not decision.probe:
            self._awaited[sequence] = detections
            if len(self._awaited) > MAX_AWAITED:
                self._awaited.popitem(last=False)

    def teacher(self, sequence: int, detections: Detections) -> None:
        """Take the teacher's answer in time; class ids are its own."""
        student = self._awaited.pop(sequence, None)
        if student is None:
            return
        found = audit(student, self._labels, self._score, detections, self._teacher_labels)
        self._rates.add(found)
        if self._tests is not None:
            self._tests.audited(found)

    def report(self) -> Report:
        """Return the drift now, with the rates of the audited frames."""
        tests = self._tests
        return drift_report(
            f'camera {self.name} drift', self.hardware_id, tests.tests if tests else None,
            tests.alarms.values() if tests else (), self._held, self._clock(), self._problem, self._idle,
            self._rates.values() if self._settings.enabled else ())
