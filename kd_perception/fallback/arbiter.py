# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The deadline state machine of one camera: one output for each student result, in order, in time.

The rule: results leave in the order in which they came. A clear one leaves at once, unless one before it
still waits for the teacher; an ambiguous one leaves with the teacher's answer or at its deadline, whichever
is first. As deadlines rise along the queue, waiting behind another never costs a result its own deadline.

What an answer belongs to is told by its stamp alone. Stamps order nothing: after a bag loop or a clock
step they fall or repeat, and the order of arrival still holds. Times are readings (ns) of one steady clock.
"""

from __future__ import annotations

from collections import Counter, deque, OrderedDict
from collections.abc import Mapping
import dataclasses
import enum
from typing import Any, Literal

from kd_perception.boxes.detections import Detections
from kd_perception.fallback.gate import GateDecision, NO_IMAGE
from kd_perception.fallback.merge import Merged, Merger
from kd_perception.fallback.provenance import Output, Provenance, Source
from kd_perception.fallback.steady import SteadyTime

# Why an output is not the teacher's though the frame was sent; besides the gate's denials.
DEADLINE = 'deadline'
OVERFLOW = 'overflow'
UNUSABLE = 'unusable_answer'
SHUTDOWN = 'shutdown'

_MAX_PROBES = 16


class Verdict(enum.Enum):
    """What became of a teacher's answer."""

    ACCEPTED = 'accepted'       # decides its frame's output
    UNUSABLE = 'unusable'       # came in time, but cannot be used; the student's result stands
    LATE = 'late'               # its frame has left: dropped, never a revision
    DUPLICATE = 'duplicate'     # its frame was answered before: dropped
    UNKNOWN = 'unknown'         # no frame of that stamp was sent, as far as remembered: dropped
    PROBE = 'probe'             # answers a probe, whose frame had left at once


@dataclasses.dataclass(frozen=True)
class ArbiterSettings:
    """
    Limits.

    :param deadline_ns: an output leaves at most this long after the student's result.
    :param reserve_ns: waiting for the teacher ends this long before the deadline: what the owner's timer and
        publishing take, so that the promise is kept to the consumer and not to the alarm.
    :param max_pending: results that may wait; one more releases the oldest with the student's result.
    :param max_remembered: frames sent whose stamps are remembered after they left, to tell late answers
        from unknown ones.
    """

    deadline_ns: int = 150_000_000
    reserve_ns: int = 0
    max_pending: int = 64
    max_remembered: int = 256

    def __post_init__(self):
        """Check ranges."""
        if not 0 < self.deadline_ns <= 60_000_000_000:
            raise ValueError('deadline_ns must be positive and at most 60 s')
        if not 0 <= self.reserve_ns < self.deadline_ns:
            raise ValueError('reserve_ns must not be negative, and less than deadline_ns')
        if not (1 <= self.max_pending <= 10_000 and 1 <= self.max_remembered <= 100_000):
            raise ValueError('max_pending must be in 1..10000, max_remembered in 1..100000')


@dataclasses.dataclass(frozen=True)
class StudentStep:
    """
    What follows from a student's result.

    :param sequence: its number, 0, 1, 2 ...; its output carries it.
    :param outputs: to be published now, in this order.
    """

    sequence: int
    outputs: tuple[Output, ...]


@dataclasses.dataclass(frozen=True)
class TeacherStep:
    """
    What follows from a teacher's answer.

    :param sequence: of the frame that it belongs to; None where that is not known any more.
    :param outputs: to be published now, in this order.
    """

    verdict: Verdict
    sequence: int | None
    outputs: tuple[Output, ...]


class _Pending:
    """A student's result that has not left."""

    __slots__ = ('sequence', 'stamp_ns', 'detections', 'decision', 'context', 'image_age_ns', 'arrived_ns',
                 'due_ns', 'deadline_ns', 'waiting', 'asked', 'merged', 'answered_ns', 'unverified')

    def __init__(self, sequence: int, stamp_ns: int, detections: Detections, decision: GateDecision,
                 context: Any, image_age_ns: int | None, arrived_ns: int, settings: ArbiterSettings,
                 asked: bool):
        self.sequence, self.stamp_ns, self.detections = sequence, stamp_ns, detections
        self.decision, self.context, self.image_age_ns = decision, context, image_age_ns
        self.arrived_ns = arrived_ns
        self.due_ns = arrived_ns + settings.deadline_ns         # what was promised when it came
        # Before that; earlier still where a later one is due before.
        self.deadline_ns = self.due_ns - settings.reserve_ns
        self.waiting = decision.send and not decision.probe
        self.asked = asked      # False: its image has yet to come before the teacher can be asked
        self.merged: Merged | None = None
        self.answered_ns: int | None = None
        self.unverified = '' if self.waiting else decision.denied


def _sent(entry: _Pending) -> Literal['yes', 'no', 'probe']:
    if not entry.decision.send or not entry.asked:
        return 'no'
    return 'probe' if entry.decision.probe else 'yes'


class Arbiter:
    """
    The state machine. Not thread-safe; reads no clock.

    :param merger: makes the verified detections.
    """

    def __init__(self, merger: Merger, settings: ArbiterSettings = ArbiterSettings()):
        """Start with nothing pending."""
        self.merger = merger
        self._settings = settings
        self._time = SteadyTime()
        self._queue: deque[_Pending] = deque()
        self._waiting: dict[int, deque[_Pending]] = {}      # by stamp; the oldest is answered first
        # By stamp of frames that have left: answers that may still come, late.
        self._left: OrderedDict[int, int] = OrderedDict()
        self._probes: OrderedDict[int, int] = OrderedDict()     # stamp -> sequence
        self._sequence = 0
        self._last_stamp_ns: int | None = None
        self._counts: Counter[str] = Counter()
        self._worst_lateness_ns = 0

    @property
    def settings(self) -> ArbiterSettings:
        """The limits in force."""
        return self._settings

    def configure(self, settings: ArbiterSettings) -> None:
        """Change the limits; results that wait already keep their deadline, or get an earlier one."""
        self._settings = settings

    @property
    def next_sequence(self) -> int:
        """Number of the next result."""
        return self._sequence

    @property
    def pending(self) -> int:
        """Results that have not left; at most `max_pending` after each call."""
        return len(self._queue)

    @property
    def waiting(self) -> int:
        """Results that wait for an answer, as of the last call."""
        return sum(map(len, self._waiting.values()))

    @property
    def remembered(self) -> int:
        """Stamps remembered of frames that have left; bounded."""
        return len(self._left) + len(self._probes)

    @property
    def counts(self) -> Mapping[str, int]:
        """
        Totals since the start.

        `students`, `outputs`, `stamps_not_rising`, `deadlines_missed`, `boxes_cut`, and by kind
        `source.*`, `unverified.*`, `answer.*`.
        """
        return dict(self._counts)

    @property
    def worst_lateness_ns(self) -> int:
        """The furthest that an output left behind its deadline (ticks came late); 0: never."""
        return self._worst_lateness_ns

    def on_student(self, stamp_ns: int, detections: Detections, decision: GateDecision, now_ns: int,
                   context: Any = None, image_age_ns: int | None = None, asked: bool = True) -> StudentStep:
        """
        Take a result of the student; `decision.send` tells that its image goes to the teacher now.

        :param context: handed back with the output, for example the message's header.
        :param image_age_ns: age of the image on arrival of the result, by the stamps' own clock.
        :param asked: False: its image is still on its way; see `on_asked` and `on_image_lost`.
        """
        elapsed_ns = self._time.advance(now_ns)
        outputs = self._expire(elapsed_ns)
        self._counts['students'] += 1
        if self._last_stamp_ns is not None and stamp_ns <= self._last_stamp_ns:
            self._counts['stamps_not_rising'] += 1
        self._last_stamp_ns = stamp_ns
        entry = _Pending(self._sequence, stamp_ns, detections, decision, context, image_age_ns, elapsed_ns,
                         self._settings, asked)
        self._sequence += 1
        # After the deadline was shortened, those before may not hold this one back beyond its own.
        for earlier in self._queue:
            earlier.deadline_ns = min(earlier.deadline_ns, entry.deadline_ns)
        self._queue.append(entry)
        if entry.waiting:
            self._waiting.setdefault(stamp_ns, deque()).append(entry)
        elif decision.probe:
            self._remember_probe(stamp_ns, entry.sequence)
        while len(self._queue) > self._settings.max_pending:
            if self._queue[0].waiting:
                self._give_up(self._queue[0], OVERFLOW)
            outputs.append(self._release(elapsed_ns))
        return StudentStep(entry.sequence, (*outputs, *self._release_ready(elapsed_ns)))

    def on_teacher(self, stamp_ns: int, detections: Detections | None, now_ns: int) -> TeacherStep:
        """
        Take an answer of the teacher.

        An answer at or after its frame's deadline is late, even where no tick came in between.

        :param detections: class ids are the teacher's; None: an answer that cannot be used.
        """
        elapsed_ns = self._time.advance(now_ns)
        outputs = self._expire(elapsed_ns)
        verdict, sequence = self._judge(stamp_ns, detections, elapsed_ns)
        self._counts[f'answer.{verdict.value}'] += 1
        return TeacherStep(verdict, sequence, (*outputs, *self._release_ready(elapsed_ns)))

    def on_asked(self, sequence: int) -> bool:
        """Report that a frame's image came after its result and goes out now; False: it waits no more."""
        entry = self._waiting_entry(sequence)
        if entry is not None:
            entry.asked = True
        return entry is not None

    def on_asked_later(self, sequence: int, stamp_ns: int) -> None:
        """Report that a frame that does not wait is asked about; its answer is a probe's."""
        self._remember_probe(stamp_ns, sequence)

    def on_image_lost(self, sequence: int, now_ns: int) -> tuple[Output, ...]:
        """Report that a frame's image will not come; it leaves with the student's result."""
        elapsed_ns = self._time.advance(now_ns)
        outputs = self._expire(elapsed_ns)
        entry = self._waiting_entry(sequence)
        if entry is not None and not entry.asked:
            self._give_up(entry, NO_IMAGE)
        return (*outputs, *self._release_ready(elapsed_ns))

    def _waiting_entry(self, sequence: int) -> _Pending | None:
        return next((entry for entry in self._queue if entry.sequence == sequence and entry.waiting), None)

    def on_tick(self, now_ns: int) -> tuple[Output, ...]:
        """Let time pass; return the outputs whose deadline has come. Call it at `next_deadline`."""
        return tuple(self._expire(self._time.advance(now_ns)))

    def next_deadline(self) -> int | None:
        """Return when `on_tick` must be called, as the clock will show it; None: nothing waits."""
        return self._time.reading_at(self._queue[0].deadline_ns) if self._queue else None

    def flush(self, now_ns: int, reason: str = SHUTDOWN) -> tuple[Output, ...]:
        """Release all that waits with the student's result; for a node that stops."""
        elapsed_ns = self._time.advance(now_ns)
        outputs = self._expire(elapsed_ns)
        while self._queue:
            if self._queue[0].waiting:
                self._give_up(self._queue[0], reason)
            outputs.append(self._release(elapsed_ns))
        return tuple(outputs)

    def _remember_probe(self, stamp_ns: int, sequence: int) -> None:
        self._probes[stamp_ns] = sequence
        self._probes.move_to_end(stamp_ns)
        if len(self._probes) > _MAX_PROBES:
            self._probes.popitem(last=False)

    def _judge(self, stamp_ns: int, detections: Detections | None,
               elapsed_ns: int) -> tuple[Verdict, int | None]:
        waiting = self._waiting.get(stamp_ns)
        if waiting:
            entry = waiting[0]
            merged = self._merge(entry, detections)
            entry.answered_ns = elapsed_ns
            if merged is None:
                self._give_up(entry, UNUSABLE, answers_due=0)
                return Verdict.UNUSABLE, entry.sequence
            entry.merged = merged
            self._settle(entry, answers_due=0)
            return Verdict.ACCEPTED, entry.sequence
        if stamp_ns in self._probes:
            sequence = self._probes.pop(stamp_ns)
            self._remember(stamp_ns, 0)
            return Verdict.PROBE, sequence
        if stamp_ns not in self._left:
            return Verdict.UNKNOWN, None
        if not self._left[stamp_ns]:
            return Verdict.DUPLICATE, None
        self._left[stamp_ns] -= 1
        return Verdict.LATE, None

    def _merge(self, entry: _Pending, detections: Detections | None) -> Merged | None:
        """Return the merged answer, None where the teacher's cannot be used."""
        if detections is None:
            return None
        try:
            return self.merger.merge(entry.detections, detections)
        except ValueError:      # a peer's bad answer: it must not cost the outputs that are due with it
            return None

    def _expire(self, elapsed_ns: int) -> list[Output]:
        """Release all up to the last one whose deadline has come."""
        outputs = []
        while self._queue and self._queue[0].deadline_ns <= elapsed_ns:
            if self._queue[0].waiting:
                self._give_up(self._queue[0], DEADLINE if self._queue[0].asked else NO_IMAGE)
            outputs.append(self._release(elapsed_ns))
        return outputs + self._release_ready(elapsed_ns)

    def _release_ready(self, elapsed_ns: int) -> list[Output]:
        outputs = []
        while self._queue and not self._queue[0].waiting:
            outputs.append(self._release(elapsed_ns))
        return outputs

    def _give_up(self, entry: _Pending, why: str, answers_due: int = 1) -> None:
        entry.unverified = why
        self._settle(entry, answers_due if entry.asked else 0)

    def _settle(self, entry: _Pending, answers_due: int) -> None:
        """Stop waiting for an answer to `entry`."""
        entry.waiting = False
        waiting = self._waiting[entry.stamp_ns]
        waiting.remove(entry)
        if not waiting:
            del self._waiting[entry.stamp_ns]
        self._remember(entry.stamp_ns, answers_due)

    def _remember(self, stamp_ns: int, answers_due: int) -> None:
        self._left[stamp_ns] = self._left.get(stamp_ns, 0) + answers_due
        self._left.move_to_end(stamp_ns)
        while len(self._left) > self._settings.max_remembered:
            self._left.popitem(last=False)

    def _release(self, elapsed_ns: int) -> Output:
        """Make the output of the head of the queue, which waits no more."""
        entry = self._queue.popleft()
        decision = entry.decision
        if entry.merged is not None:
            merged = entry.merged
            source = Source.MERGED if merged.from_student else Source.TEACHER
        else:
            merged = self.merger.student_only(entry.detections)
            if decision.send and entry.asked and not decision.probe and entry.unverified != UNUSABLE:
                source = Source.STUDENT_LATE_TEACHER
            elif decision.ambiguous or entry.unverified == UNUSABLE:
                source = Source.STUDENT_NO_TEACHER
            else:
                source = Source.STUDENT
        lateness_ns = max(0, elapsed_ns - entry.due_ns)
        self._worst_lateness_ns = max(self._worst_lateness_ns, lateness_ns)
        self._counts['outputs'] += 1
        self._counts['deadlines_missed'] += lateness_ns > 0
        self._counts['boxes_cut'] += merged.cut
        self._counts[f'source.{source.value}'] += 1
        if entry.unverified:
            self._counts[f'unverified.{entry.unverified}'] += 1
        return Output(
            sequence=entry.sequence, stamp_ns=entry.stamp_ns, context=entry.context,
            detections=merged.detections, student=entry.detections,
            provenance=Provenance(
                source=source, reason=decision.reason, ambiguity=decision.score, ambiguous=decision.ambiguous,
                audit=decision.audit, sent=_sent(entry),
                unverified=entry.unverified, from_student=merged.from_student,
                waited_ns=elapsed_ns - entry.arrived_ns,
                teacher_ns=None if entry.answered_ns is None else entry.answered_ns - entry.arrived_ns,
                image_age_ns=None if entry.image_age_ns is None else max(0, entry.image_age_ns),
                deadline_met=lateness_ns == 0, contributions=decision.contributions, rank=decision.rank))
