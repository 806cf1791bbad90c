# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
A camera's whole fallback before a simulated teacher that dies, lags, stutters and lies, and images that come
after their result or never.

The promises that must hold whatever the teacher does: one output for each result, in order, in time; the
budget; no waiting for a teacher that is known to be out; bounded memory; recovery without a restart.
"""

import heapq

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, RuleBasedStateMachine
import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.fallback.ambiguity import FeatureExtractor, FeatureSettings
from kd_perception.fallback.arbiter import ArbiterSettings
from kd_perception.fallback.breaker import BreakerSettings, BreakerState
from kd_perception.fallback.camera_fallback import CameraFallback, FallbackSettings
from kd_perception.fallback.flow import flow_image
from kd_perception.fallback.gate import AUDIT_BURST, GateSettings
from kd_perception.fallback.merge import LabelMap, MergeSettings
from kd_perception.fallback.scores import SignalScorer
from kd_perception.fallback.state import FallbackState

MS = 1_000_000
DEADLINE_MS = 100


def box(score, class_id=0, count=1):
    return Detections([[50, 50, 90, 90]] * count, [score] * count, [class_id] * count)


FRAMES = [Detections.empty(), box(0.95), box(0.45)]
ANSWER = box(0.8)
GARBAGE = [None, box(0.5, class_id=77), box(0.5, count=2000)]
# Delays of the answers to one request, in ms.
TEACHERS = {'good': [40], 'edge': [DEADLINE_MS - 1], 'late': [DEADLINE_MS], 'slow': [350], 'dead': [],
            'doubled': [30, 60], 'stutters': [20, 90, 130, 400]}
VIEWS = [flow_image(np.kron(np.random.default_rng(seed).integers(0, 255, (16, 24), dtype=np.uint8),
                            np.ones((8, 8), np.uint8))[:height])
         for seed, height in ((0, 128), (1, 128), (0, 96))]


class FallbackMachine(RuleBasedStateMachine):
    """Time runs from event to event: answers that are due, and the ticks that were asked for."""

    @initialize(share=st.sampled_from([0.0, 0.2, 1.0]), audit=st.sampled_from([0.0, 0.5]),
                burst=st.sampled_from([1.0, 3.0]), seed=st.integers(0, 99),
                policy=st.sampled_from(['replace', 'union']))
    def start(self, share, audit, burst, seed, policy):
        self.settings = FallbackSettings(
            gate=GateSettings(share=share, audit_share=share * audit, burst=burst),
            arbiter=ArbiterSettings(deadline_ns=DEADLINE_MS * MS, max_pending=5, max_remembered=10),
            breaker=BreakerSettings(misses=3, window=5, silence_ns=600 * MS, probe_interval_ns=200 * MS,
                                    probe_interval_max_ns=800 * MS),
            merge=MergeSettings(policy))
        self.clock, self.offset = 0, 0          # true time, and what the fallback's clock is off by
        self.fallback = CameraFallback(
            'front', LabelMap.by_name(('Car',), ('Car',)), FeatureExtractor(FeatureSettings(), ('Car',)),
            SignalScorer(), 0, self.settings, seed)
        self.teacher, self.garbage = 'good', None
        self.answers, self.images, self.tie = [], [], 0
        self.arrivals, self.sent, self.released, self.stamp = [], [], 0, 0

    @property
    def now(self):
        return self.clock + self.offset

    def take(self, outputs):
        for output in outputs:
            assert output.sequence == self.released < len(self.arrivals)
            stamp, arrived = self.arrivals[self.released]
            assert output.stamp_ns == stamp
            assert output.provenance.waited_ns == self.clock - arrived <= DEADLINE_MS * MS
            assert output.provenance.deadline_met
            assert len(output.detections) <= self.settings.merge.max_detections
            assert len(output.track_ids) == len(set(output.track_ids)) == len(output.detections)
            provenance = output.provenance
            carried = provenance.source.value == 'carried'
            assert carried == (provenance.carried > 0) == (provenance.carried_frames > 0)
            if carried:
                assert provenance.carried + provenance.from_student == len(output.detections)
                assert provenance.carried_frames <= self.settings.carry.frames
                assert provenance.unverified or not provenance.ambiguous
            self.released += 1

    def advance(self, milliseconds):
        end = self.clock + milliseconds * MS
        while True:
            deadline = self.fallback.next_deadline()
            tick = end + 1 if deadline is None else deadline - self.offset
            answer = self.answers[0][0] if self.answers else end + 1
            image = self.images[0][0] if self.images else end + 1
            if min(tick, answer, image) > end:
                break
            if image < min(tick, answer):
                self.clock, _, sequence, stamp, comes = heapq.heappop(self.images)
                if not comes:
                    self.take(self.fallback.on_image_lost(sequence, self.now))
                elif self.fallback.on_late_image(sequence, self.now, lambda: VIEWS[0]):
                    self.ask(stamp)
                continue
            # Of an answer and a tick at the same moment, the answer comes first: it must not slip in.
            if answer <= tick:
                _, _, stamp, detections = heapq.heappop(self.answers)
                self.clock = answer
                self.take(self.fallback.on_teacher(stamp, detections, self.now).outputs)
            else:
                self.clock = tick
                outputs = self.fallback.on_tick(self.now)
                assert outputs
                self.take(outputs)
        self.clock = end

    def ask(self, stamp):
        for delay in TEACHERS[self.teacher]:
            self.tie += 1
            answer = ANSWER if self.garbage is None else GARBAGE[self.garbage]
            heapq.heappush(self.answers, (self.clock + delay * MS, self.tie, stamp, answer))

    @rule(frame=st.sampled_from(FRAMES), gap=st.sampled_from([0, 1, 20, 100, 300]),
          image=st.sampled_from(['here', 'here', 'gone', 'late', 'lost', 'never']),
          stamp_step=st.sampled_from([100, 100, 100, 0, -300]),
          view=st.sampled_from([0, 0, 0, 1, 2, None]))
    def student(self, frame, gap, image, stamp_step, view=0):
        self.advance(gap)
        self.stamp += stamp_step
        was_open = self.fallback.breaker.state is not BreakerState.CLOSED
        self.arrivals.append((self.stamp, self.clock))
        step = self.fallback.on_student(self.stamp, frame, self.now, image_hw=(375, 1242),
                                        image_at_hand=image == 'here',
                                        image_awaited=image in ('late', 'lost', 'never'),
                                        view=lambda: None if view is None else VIEWS[view])
        self.sent.append(step.send)
        if step.send and image == 'here':
            self.ask(self.stamp)
        elif step.send and image != 'never':
            self.tie += 1
            heapq.heappush(self.images, (
                self.clock + 30 * MS, self.tie, step.sequence, self.stamp, image == 'late'))
        if image != 'here':
            assert not step.decision.probe, 'a probe needs an image'
        if was_open:
            assert step.decision.probe or not step.send
        self.take(step.outputs)

    @rule(teacher=st.sampled_from(sorted(TEACHERS)), garbage=st.sampled_from([None, None, None, 0, 1, 2]))
    def teacher_changes(self, teacher, garbage):
        self.teacher, self.garbage = teacher, garbage

    @rule(stamp=st.integers(-5, 5))
    def answer_out_of_nowhere(self, stamp):
        self.take(self.fallback.on_teacher(self.stamp + 100 * stamp, ANSWER, self.now).outputs)

    @rule(milliseconds=st.integers(0, 1500))
    def wait(self, milliseconds):
        self.advance(milliseconds)

    @rule(step=st.integers(1, 10**12))
    def clock_steps_back(self, step):
        # A step back is seen against the time seen last; time that passed unseen could hide a small one.
        self.take(self.fallback.on_tick(self.now))
        self.offset -= step
        self.take(self.fallback.on_tick(self.now))

    @invariant()
    def budget_holds(self):
        gate = self.settings.gate
        for start in (0, max(0, len(self.sent) - 10)):
            window = self.sent[start:]
            assert sum(window) <= gate.share * len(window) + gate.burst + AUDIT_BURST + 1e-6

    @invariant()
    def memory_is_bounded(self):
        arbiter = self.fallback.arbiter
        assert arbiter.pending == len(self.arrivals) - self.released <= 5
        assert arbiter.remembered <= 10 + 16
        temporal = self.fallback.temporal
        assert len(temporal._views) <= len(temporal._awaited) <= arbiter.pending
        assert len(temporal._carrier._seen) <= self.settings.carry.frames + 1
        assert sum(map(len, arbiter._waiting.values())) <= 5

    @invariant()
    def state_says_what_is(self):
        report = self.fallback.report(self.now)
        assert report.message
        if self.fallback.breaker.state is not BreakerState.CLOSED:
            assert report.state is not FallbackState.NOMINAL

    def teardown(self):
        if not hasattr(self, 'fallback'):
            return
        self.advance(500)
        assert self.released == len(self.arrivals)
        # A good teacher is taken back, however long it was away.
        self.teacher, self.garbage, self.stamp = 'good', None, self.stamp + 10_000
        for _ in range(80):
            self.student(FRAMES[2], 100, 'here', 100)
        self.advance(500)
        assert self.released == len(self.arrivals)
        if self.settings.gate.share > 0:
            assert self.fallback.breaker.state is BreakerState.CLOSED
            assert self.fallback.report(self.now).state is not FallbackState.DEGRADED


TestFallbackModel = FallbackMachine.TestCase
TestFallbackModel.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
