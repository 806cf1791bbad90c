# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The whole fallback of one camera: features, gate, breaker, arbiter and state behind four calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any

from kd_perception.boxes.detections import Detections
from kd_perception.fallback.ambiguity import FeatureExtractor, FeatureVector
from kd_perception.fallback.arbiter import Arbiter, ArbiterSettings, DEADLINE, TeacherStep, Verdict
from kd_perception.fallback.breaker import BreakerSettings, TeacherBreaker
from kd_perception.fallback.carry import CarrySettings
from kd_perception.fallback.flow import FlowImage
from kd_perception.fallback.gate import (
    Gate,
    GateDecision,
    GateSettings,
    NO_IMAGE,
    TEACHER_BUSY,
    TEACHER_OFF,
    TEACHER_OUT,
    TIME_SPENT,
)
from kd_perception.fallback.merge import LabelMap, Merger, MergeSettings
from kd_perception.fallback.provenance import Output, Source
from kd_perception.fallback.rate_budget import RateBucket
from kd_perception.fallback.running_threshold import RunningThreshold
from kd_perception.fallback.scores import Ambiguity, Scorer
from kd_perception.fallback.state import StateMonitor, StateReport, StateSettings
from kd_perception.fallback.teacher_load import LoadSettings, TeacherLoad
from kd_perception.fallback.temporal import TemporalStage
from kd_perception.fallback.waiting import WaitingFrame, WaitingFrames
from kd_perception.images.scene import SceneSignals


@dataclasses.dataclass(frozen=True)
class FallbackSettings:
    """
    All that a user may tune, live.

    :param running: the gate's thresholds follow the camera's scores, so that `gate.share` of the frames
        reaches them (`RunningThreshold`); its own are for the first frames.
    :param max_in_flight: frames of the camera that may be with the teacher at once. A detector of this
        package works on one and keeps the newest that waits: a third request would undo the second.
    :param carry: how the teacher's boxes are carried forward to frames that it does not answer.
    :param load: what may be asked of the teacher, all its cameras together.
    :param teacher: False: there is no teacher, by design; the state is DEGRADED and says so.
    :param breaker: its `probe_deadline_ns` is replaced by the arbiter's deadline.
    """

    gate: GateSettings = GateSettings()
    arbiter: ArbiterSettings = ArbiterSettings()
    breaker: BreakerSettings = BreakerSettings()
    merge: MergeSettings = MergeSettings()
    state: StateSettings = StateSettings()
    carry: CarrySettings = CarrySettings()
    load: LoadSettings = LoadSettings()
    teacher: bool = True
    running: bool = False
    max_in_flight: int = 2

    def __post_init__(self):
        """Check ranges."""
        if not 1 <= self.max_in_flight <= 1000:
            raise ValueError('max_in_flight must be in 1..1000')

    def breaker_settings(self) -> BreakerSettings:
        """Return the breaker's settings, with the deadline that all requests have."""
        return dataclasses.replace(self.breaker, probe_deadline_ns=self.arbiter.deadline_ns)


@dataclasses.dataclass(frozen=True)
class FrameStep:
    """
    What follows from a student's result.

    :param outputs: to be published now, in this order.
    :param send: the image of this stamp goes to the teacher now.
    :param sequence: number of the result.
    :param keep: the image of this stamp may be asked for later (`ask_waiting`), and none before it.
    """

    outputs: tuple[Output, ...]
    send: bool
    decision: GateDecision
    features: FeatureVector
    sequence: int
    keep: bool = False


class CameraFallback:
    """
    One camera. Not thread-safe; reads no clock: `now_ns` is always a reading of one steady clock.

    :param camera: a name, unique among the users of a shared breaker.
    :param extractor, scorer: judge a frame; an estimator belongs with the extractor settings that it holds.
    :param rate: bound of requests a second, shared between cameras where it is the same object.
    :param breaker: of the teacher, shared between its cameras where it is the same object; its settings
        are then the owner's concern. None: one for this camera alone.
    :param load: of the teacher, likewise. :param waiting: frames that wait for it, likewise.
    """

    def __init__(self, camera: str, labels: LabelMap, extractor: FeatureExtractor, scorer: Scorer,
                 now_ns: int, settings: FallbackSettings = FallbackSettings(), seed: int = 0,
                 rate: RateBucket | None = None, breaker: TeacherBreaker | None = None,
                 load: TeacherLoad | None = None, waiting: WaitingFrames | None = None):
        """Start; silence of camera and student counts from `now_ns`."""
        self.camera = camera
        self.extractor, self.scorer = extractor, scorer
        self._settings = settings
        self.gate = Gate(settings.gate, seed, rate)
        self._running = RunningThreshold(settings.gate.share, settings.gate.enter)
        self._owns_breaker = breaker is None
        self.breaker = TeacherBreaker(settings.breaker_settings()) if breaker is None else breaker
        self._owns_load = load is None
        self.load = TeacherLoad(settings.load) if load is None else load
        self.waiting = WaitingFrames() if waiting is None else waiting
        self.arbiter = Arbiter(Merger(labels, settings.merge), settings.arbiter)
        self.temporal = TemporalStage(self.arbiter.merger, settings.carry)
        self._state = StateMonitor(settings.state, now_ns)

    @property
    def settings(self) -> FallbackSettings:
        """The settings in force."""
        return self._settings

    @property
    def labels(self) -> Sequence[str]:
        """Class names of the outputs by class id."""
        return self.arbiter.merger.labels.labels

    def configure(self, settings: FallbackSettings) -> None:
        """Change the settings between frames; nothing that waits is lost, no count or token is reset."""
        self._settings = settings
        self._running.share, self._running.prior = settings.gate.share, settings.gate.enter
        self.gate.configure(settings.gate)
        if self._owns_breaker:
            self.breaker.configure(settings.breaker_settings())
        if self._owns_load:
            self.load.configure(settings.load)
        self.arbiter.merger.settings = settings.merge
        self.arbiter.configure(settings.arbiter)
        self.temporal.configure(settings.carry)
        self._state.configure(settings.state)

    def follow(self, extractor: FeatureExtractor, scorer: Scorer, settings: FallbackSettings) -> None:
        """
        Judge another student's results from the next one on; it has the same classes, and nothing is lost.

        Scores of the last one's frames say nothing of the new one's: a running threshold starts anew.
        """
        self.extractor, self.scorer = extractor, scorer
        self._running = RunningThreshold(settings.gate.share, settings.gate.enter)
        self.configure(settings)

    def on_image(self, now_ns: int) -> None:
        """Report that the camera gave an image."""
        self._state.image(now_ns)

    def on_student(self, stamp_ns: int, detections: Detections, now_ns: int, *,
                   image_hw: tuple[int, int] | None = None, scene: SceneSignals | None = None,
                   image_at_hand: bool = True, context: Any = None,
                   image_age_ns: int | None = None, suspect: str = '',
                   image_awaited: bool = False,
                   view: Callable[[], FlowImage | None] | None = None) -> FrameStep:
        """
        Take a result of the student, down to its low threshold.

        :param image_hw: (height, width) px, None where unknown. :param scene: None: not measured.
        :param image_at_hand: False: the image is gone, so that it cannot be sent.
        :param context, image_age_ns: see `Arbiter.on_student`.
        :param suspect: why the result itself cannot be believed; the frame is then ambiguous for this reason,
            whatever the scorer would say.
        :param image_awaited: the image is not here yet, but may come: `send` then means that it is to be sent
            when it does (`on_late_image`), unless it turns out to be lost (`on_image_lost`).
        :param view: gives the image as boxes are carried through it; called at most once, where it is needed.
        """
        self._state.student(now_ns)
        features = self.extractor.extract(detections, stamp_ns, image_hw, scene)
        blocked, probe_due = self._blocked(now_ns, image_at_hand or image_awaited)
        probe_due = probe_due and image_at_hand
        ambiguity = Ambiguity(math.inf, suspect) if suspect else self.scorer.explain(features)
        if self._settings.running:
            self.gate.configure(self._running.gate(self._settings.gate))
        decision = self.gate.decide(
            ambiguity, now_ns, blocked, probe_due, self._running.price(self.gate.saved))
        decision = dataclasses.replace(decision, rank=self._running.rank(ambiguity.score))
        self._running.add(ambiguity.score)
        keep = image_at_hand and self._waits(decision, blocked) and self.waiting.offer(
            self.camera, self.arbiter.next_sequence, ambiguity.score, now_ns)
        self.temporal.expect(self.arbiter.next_sequence, view, decision.send or keep)
        step = self.arbiter.on_student(
            stamp_ns, detections, decision, now_ns, context, image_age_ns, asked=image_at_hand)
        # What expired by now is heard of before the new request is.
        self._tell_misses(step.outputs, now_ns)
        if decision.send and image_at_hand:
            self.breaker.sent((self.camera, step.sequence), now_ns, decision.probe)
            self.load.asked(self.camera, now_ns)
        return FrameStep(
            self.temporal.finish(step.outputs), decision.send, decision, features, step.sequence, keep)

    def may_ask_waiting(self, now_ns: int) -> bool:
        """Return whether the teacher is free for a frame that waits (`WaitingFrames.ask`)."""
        free = self.breaker.available(now_ns) or self.breaker.probe_due(now_ns)
        return self._settings.teacher and free and self.load.idle(now_ns) and self.load.has_credit(now_ns)

    def ask_waiting(self, frame: WaitingFrame, stamp_ns: int, now_ns: int) -> bool:
        """
        Ask about a frame that had to wait; return whether its image goes to the teacher now.

        Its output leaves as it would have; the answer is carried forward.
        """
        if not self.gate.spend_later():
            return False
        self.arbiter.on_asked_later(frame.sequence, stamp_ns)
        self.breaker.sent((self.camera, frame.sequence), now_ns, probe=not self.breaker.available(now_ns))
        self.load.asked(self.camera, now_ns)
        return True

    def on_late_image(self, sequence: int, now_ns: int,
                      view: Callable[[], FlowImage | None] | None = None) -> bool:
        """Report that an awaited image came; return whether it goes to the teacher now."""
        asked = self.arbiter.on_asked(sequence)
        if asked:
            self.temporal.seen(sequence, view)
            self.breaker.sent((self.camera, sequence), now_ns)
            self.load.asked(self.camera, now_ns)
        return asked

    def on_image_lost(self, sequence: int, now_ns: int) -> tuple[Output, ...]:
        """Report that an awaited image will not come."""
        outputs = self.arbiter.on_image_lost(sequence, now_ns)
        self._tell_misses(outputs, now_ns)
        return self.temporal.finish(outputs)

    def on_teacher(self, stamp_ns: int, detections: Detections | None, now_ns: int) -> TeacherStep:
        """
        Take an answer of the teacher.

        :param detections: class ids are the teacher's; None: the answer cannot be used.
        """
        step = self.arbiter.on_teacher(stamp_ns, detections, now_ns)
        self._tell_misses(step.outputs, now_ns)
        if step.verdict not in (Verdict.UNKNOWN, Verdict.DUPLICATE):
            self.load.answered(self.camera, now_ns)
        ticket = (self.camera, step.sequence)
        if step.verdict is Verdict.ACCEPTED:
            self.breaker.answered()
        elif step.verdict is Verdict.PROBE and detections is not None:
            self.breaker.probe_answered(ticket, now_ns)
        elif step.verdict is Verdict.LATE:
            self.breaker.late()
        elif step.verdict in (Verdict.UNUSABLE, Verdict.PROBE):
            self.breaker.missed(ticket, now_ns, unusable=True)
        outputs = self.temporal.finish(step.outputs)
        if step.verdict in (Verdict.LATE, Verdict.PROBE) and detections is not None:
            self.temporal.late(stamp_ns, detections)
        return dataclasses.replace(step, outputs=outputs)

    def on_tick(self, now_ns: int) -> tuple[Output, ...]:
        """Let time pass; return the outputs whose deadline has come. Call it at `next_deadline`."""
        outputs = self.arbiter.on_tick(now_ns)
        self._tell_misses(outputs, now_ns)
        self.breaker.tick(now_ns)
        return self.temporal.finish(outputs)

    def next_deadline(self) -> int | None:
        """Return when `on_tick` must be called, as the clock will show it; None: nothing waits."""
        return self.arbiter.next_deadline()

    def flush(self, now_ns: int) -> tuple[Output, ...]:
        """Release all that waits with the student's result; for a node that stops."""
        return self.temporal.finish(self.arbiter.flush(now_ns))

    def report(self, now_ns: int) -> StateReport:
        """Return the state now; called about once a second, also while nothing arrives."""
        if not self._settings.teacher:
            return self._state.update(now_ns, 'teacher is switched off')
        self.breaker.tick(now_ns)
        fault = f'{self.breaker.reason}, breaker {self.breaker.state.value}' if self.breaker.reason else ''
        return self._state.update(now_ns, fault)

    def counts(self) -> Mapping[str, int]:
        """Return all totals since the start, as `gate.*`, `arbiter.*`, `breaker.*` and `carry.*`."""
        parts = {'gate': self.gate.counts, 'arbiter': self.arbiter.counts, 'breaker': self.breaker.counts,
                 'carry': self.temporal.counts}
        return {f'{part}.{name}': count for part, counts in parts.items() for name, count in counts.items()}

    def _blocked(self, now_ns: int, image_at_hand: bool) -> tuple[str, bool]:
        """Return why nothing may be sent now (empty: nothing is in the way), and whether a probe may."""
        if not self._settings.teacher:
            return TEACHER_OFF, False
        if not image_at_hand:
            return NO_IMAGE, False
        if self.breaker.available(now_ns):
            limits = self._settings.arbiter
            if self.arbiter.waiting >= self._settings.max_in_flight or not self.load.in_time(
                    self.camera, now_ns, limits.deadline_ns - limits.reserve_ns):
                return TEACHER_BUSY, False
            return '' if self.load.has_credit(now_ns) else TIME_SPENT, False
        return TEACHER_OUT, self.breaker.probe_due(now_ns)

    def _waits(self, decision: GateDecision, blocked: str) -> bool:
        """Return whether a frame was not sent only because the teacher is busy, or slow."""
        busy = blocked == TEACHER_BUSY or blocked == TEACHER_OUT and self.breaker.alive
        return decision.wanted and not decision.send and busy

    def _tell_misses(self, outputs: Sequence[Output], now_ns: int) -> None:
        for output in outputs:
            provenance = output.provenance
            if provenance.source is Source.STUDENT_LATE_TEACHER and provenance.unverified == DEADLINE:
                self.breaker.missed((self.camera, output.sequence), now_ns)
