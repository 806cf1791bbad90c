# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The arbiter against a model that states only what is promised.

Hypothesis drives any interleaving of results, answers (late, doubled, unknown, unusable, out of order), clock
steps and changed limits. The model remembers everything and knows no queue; ticks come when asked for.
"""

import dataclasses

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, RuleBasedStateMachine

from kd_perception.boxes.detections import Detections
from kd_perception.fallback.arbiter import Arbiter, ArbiterSettings, Verdict
from kd_perception.fallback.gate import GateDecision
from kd_perception.fallback.merge import LabelMap, Merger

LABELS = LabelMap.by_name(('Car',), ('Car',))
DECISIONS = {
    'clear': GateDecision(send=False, ambiguous=False, reason='clear', score=0.1),
    'send': GateDecision(send=True, ambiguous=True, reason='band', score=0.9),
    'audit': GateDecision(send=True, ambiguous=False, audit=True, reason='audit', score=0.1),
    'denied': GateDecision(send=False, ambiguous=True, reason='band', score=0.9, denied='rate_budget'),
    'probe': GateDecision(send=True, ambiguous=False, probe=True, reason='clear', score=0.1)}
STAMPS = st.integers(0, 11)


@dataclasses.dataclass
class Frame:
    """What the model knows of one result."""

    stamp: int
    kind: str
    context: object
    arrived: int                # model time, ns
    deadline: int
    score: float                # marks the student's boxes
    answer: float = 0.0         # marks the teacher's, once accepted
    state: str = 'free'         # waiting, accepted, unusable, given_up; free: nothing to wait for
    left: bool = False


class ArbiterMachine(RuleBasedStateMachine):
    """The model, and the checks on each output."""

    @initialize(deadline=st.integers(1, 30), pending=st.integers(1, 6), clock=st.integers(-10**9, 10**18))
    def start(self, deadline, pending, clock):
        self.limits = ArbiterSettings(deadline_ns=deadline, max_pending=pending, max_remembered=1000)
        self.arbiter = Arbiter(Merger(LABELS), self.limits)
        self.clock = clock      # what the arbiter is shown
        self.time = 0           # what really passed
        self.arbiter.on_tick(clock)
        self.frames, self.released = [], 0
        self.probes, self.late_due, self.seen = set(), {}, set()
        self.marks = 0

    def mark(self):
        self.marks += 1
        return self.marks / 10_000

    def waiting(self, stamp=None):
        return [f for f in self.frames[self.released:]
                if f.state == 'waiting' and (stamp is None or f.stamp == stamp)]

    def give_up(self, frame):
        frame.state = 'given_up'
        self.late_due[frame.stamp] = self.late_due.get(frame.stamp, 0) + 1
        self.seen.add(frame.stamp)

    def take(self, outputs, reason=None, in_time=True):
        """Check outputs as they leave; `reason`: the one excuse besides its deadline for one not answered."""
        for output in outputs:
            frame, p = self.frames[self.released], output.provenance
            assert output.sequence == self.released and not frame.left
            assert output.stamp_ns == frame.stamp and output.context is frame.context
            if frame.state == 'waiting':
                self.give_up(frame)
                due = min(f.deadline for f in self.frames[self.released:])
                assert p.unverified == ('deadline' if due <= self.time else reason), p
            assert p.waited_ns == self.time - frame.arrived
            assert p.deadline_met == (self.time <= frame.deadline)
            assert p.deadline_met or not in_time
            expected = {
                'free': 'student-no-teacher' if frame.kind == 'denied' else 'student', 'accepted': 'teacher',
                'unusable': 'student-no-teacher', 'given_up': 'student-late-teacher'}[frame.state]
            assert p.source.value == expected
            mark = frame.answer if frame.state == 'accepted' else frame.score
            assert abs(float(output.detections.scores[0]) - mark) < 1e-6
            frame.left = True
            self.released += 1

    @rule(stamp=STAMPS, kind=st.sampled_from(sorted(DECISIONS)))
    def student(self, stamp, kind):
        score = self.mark()
        frame = Frame(stamp, kind, object(), self.time, self.time + self.limits.deadline_ns, score)
        frame.state = 'waiting' if kind in ('send', 'audit') else 'free'
        self.frames.append(frame)
        if kind == 'probe':
            self.probes.add(stamp)
        step = self.arbiter.on_student(stamp, Detections([[0, 0, 1, 1]], [score], [0]), DECISIONS[kind],
                                       self.clock, frame.context)
        assert step.sequence == len(self.frames) - 1
        self.take(step.outputs, 'overflow')

    @rule(stamp=STAMPS, usable=st.sampled_from([True, True, True, False]))
    def teacher(self, stamp, usable):
        mark, waiting = self.mark(), self.waiting(stamp)
        if waiting:
            verdict, frame = (Verdict.ACCEPTED if usable else Verdict.UNUSABLE), waiting[0]
            frame.state, frame.answer = ('accepted' if usable else 'unusable'), mark
            self.seen.add(stamp)
        elif stamp in self.probes:
            verdict = Verdict.PROBE
            self.probes.remove(stamp)
            self.seen.add(stamp)
        elif self.late_due.get(stamp, 0):
            verdict = Verdict.LATE
            self.late_due[stamp] -= 1
        else:
            verdict = Verdict.DUPLICATE if stamp in self.seen else Verdict.UNKNOWN
        step = self.arbiter.on_teacher(
            stamp, Detections([[0, 0, 1, 1]], [mark], [0]) if usable else None, self.clock)
        assert step.verdict is verdict
        if waiting:
            assert self.frames[step.sequence] is frame
        self.take(step.outputs)

    @rule(passed=st.integers(0, 40))
    def wait(self, passed):
        """Time passes, and the timer fires whenever the arbiter asked for it."""
        end = self.clock + passed
        while self.arbiter.next_deadline() is not None and self.arbiter.next_deadline() <= end:
            due = self.arbiter.next_deadline()
            assert due > self.clock
            self.time += due - self.clock
            self.clock = due
            outputs = self.arbiter.on_tick(due)
            assert outputs
            self.take(outputs)
        self.time += end - self.clock
        self.clock = end
        assert self.arbiter.on_tick(end) == ()

    @rule(step=st.integers(1, 10**15))
    def clock_steps_back(self, step):
        self.clock -= step
        assert self.arbiter.on_tick(self.clock) == ()

    @rule(step=st.integers(1, 10**15))
    def clock_leaps(self, step):
        """Or the process was stopped for a while: what is overdue leaves at the first chance."""
        self.clock += step
        self.time += step
        self.take(self.arbiter.on_tick(self.clock), in_time=False)

    @rule(deadline=st.integers(1, 30), pending=st.integers(1, 6))
    def configure(self, deadline, pending):
        self.limits = dataclasses.replace(self.limits, deadline_ns=deadline, max_pending=pending)
        self.arbiter.configure(self.limits)

    @rule()
    def flush(self):
        self.take(self.arbiter.flush(self.clock), 'shutdown')
        assert self.released == len(self.frames)

    @invariant()
    def nothing_is_lost_nor_held_without_need(self):
        held = self.frames[self.released:]
        assert self.arbiter.pending == len(held) <= 6
        assert (self.arbiter.next_deadline() is None) == (not held)
        if held:
            assert held[0].state == 'waiting'
            # The timer is set for the earliest promise of all that are held.
            assert self.arbiter.next_deadline() - self.clock == min(f.deadline for f in held) - self.time > 0

    @invariant()
    def memory_is_what_it_must_be(self):
        arbiter = self.arbiter
        assert sum(map(len, arbiter._waiting.values())) == len(self.waiting())
        assert all(arbiter._waiting.values())
        assert arbiter.remembered <= 2 * 12         # at most one entry a stamp, in either memory

    def teardown(self):
        if hasattr(self, 'arbiter'):
            self.wait(40)
            assert self.released == len(self.frames)
            counts = self.arbiter.counts
            assert counts.get('students', 0) == counts.get('outputs', 0) == len(self.frames)


TestArbiterModel = ArbiterMachine.TestCase
TestArbiterModel.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
