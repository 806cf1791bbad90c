# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""fallback_node: one verified answer to each student result, in time. See docs/reference/fallback_node.md."""

from __future__ import annotations

if __name__ == '__main__':
    from kd_perception.nodes.shared import signals
    signals.leave_at_once()     # before the imports below, which take a second

from collections.abc import Callable
import sys
import time
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.drift.fallback_drift import FallbackDrift
from kd_perception.errors import KdPerceptionError, one_line
from kd_perception.fallback.ambiguity import FeatureExtractor
from kd_perception.fallback.breaker import TeacherBreaker
from kd_perception.fallback.camera_fallback import CameraFallback
from kd_perception.fallback.judge import Judge
from kd_perception.fallback.merge import LabelMap
from kd_perception.fallback.rate_budget import RateBucket
from kd_perception.fallback.teacher_load import TeacherLoad
from kd_perception.fallback.waiting import WaitingFrames
from kd_perception.health.fallback_monitor import recorder_report, teacher_report
from kd_perception.models.manifest import pinned_sha256, resolve_model
from kd_perception.models.spec import ModelSpec
from kd_perception.nodes.fallback.channel import FallbackChannel
from kd_perception.nodes.fallback.parameters import (
    check_combination,
    FALLBACK_PARAMETERS,
    FallbackNodeSettings,
)
from kd_perception.nodes.shared import parameters, qos
from kd_perception.nodes.shared.diagnostics import diagnostics_message
from kd_perception.nodes.shared.model_swap import Loaded, ModelSwap
from kd_perception.nodes.shared.runtime import logs_errors, RobustLifecycleNode, run_node
from kd_perception.nodes.shared.throttle import Throttle
from kd_perception.recording.recorder import HardFrameRecorder
from kd_perception.resources import models_folder

DIAGNOSTICS_PERIOD_S = 1.0
LOG_PERIOD_NS = 1_000_000_000
# An alarm that is due already: the executor must still come round once.
SOON_NS = 50_000
# Requests in a row that teacher_rate_hz lets pass after a quiet time, of all cameras together.
RATE_BURST = 1.0
# What a slow disk gets to complete the recording.
RECORDER_STOP_S = 5.0
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class _Student(NamedTuple):
    """What is known of the student whose results are judged."""

    spec: ModelSpec
    sha256: str


class FallbackNode(RobustLifecycleNode):
    """
    Lifecycle node: configure reads the student's facts, activate subscribes.

    Everything happens on the executor's thread; nothing in it takes longer than reading a message.

    :param load: loads the student's model file; a seam for tests.
    :param clock: steady clock, nanoseconds.
    """

    def __init__(self, load: Callable[..., OnnxDetector] = OnnxDetector.load,
                 clock: Callable[[], int] = time.monotonic_ns, **kwargs: Any):
        """Declare parameters and start the diagnostics."""
        super().__init__('fallback', **kwargs)
        self._load, self._steady_ns = load, clock
        self._student: _Student | None = None
        self._judge: Judge | None = None
        self._fault = ''
        self._channels: dict[str, FallbackChannel] = {}
        self._breaker = TeacherBreaker()
        self._rate = RateBucket(None)
        self._load_of_teacher = TeacherLoad()
        self._waiting = WaitingFrames()
        self._recorder: HardFrameRecorder | None = None
        self._states: dict[str, str] = {}
        self._due_ns: int | None = None
        self._throttle = Throttle(LOG_PERIOD_NS, clock)
        self.settings = FallbackNodeSettings.from_values(
            parameters.declare_parameters(self, FALLBACK_PARAMETERS))
        parameters.guard_changes(
            self, FALLBACK_PARAMETERS, lambda: self.state == 'unconfigured', check_combination, self._apply)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', qos.DIAGNOSTICS)
        self._swap = ModelSwap(self, 'student_model', self._load_student, lambda: self._student, self._switch,
                               self._frame_counts, self._publish_diagnostics)
        # Steady clocks: deadlines hold whatever /clock does.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics, clock=steady)
        self._alarm = self.create_timer(DIAGNOSTICS_PERIOD_S, self._tick, clock=steady)
        self._alarm.cancel()

    def start(self) -> None:
        """Configure and activate where `autostart` says so; a failure leaves the node unconfigured."""
        if self.settings.autostart and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the student's labels, thresholds and gate; a bad file fails with one line."""
        settings = self.settings
        try:
            self._take(self._load_student(settings.student_model))
            self._recorder = HardFrameRecorder(settings.recorder) if settings.recorder else None
            self._build()
        except Exception as error:
            known = isinstance(error, KdPerceptionError)
            self._fault = one_line(error if known else f'{type(error).__name__}: {error}')
            self._release()
            self.get_logger().error(f'configure failed: {self._fault}')
            return FAILURE
        self._fault = ''
        self._swap.configured()
        self.get_logger().info(
            f'fallback for {self._student.spec.name} ready: scorer {self._judge.name}, deadline '
            f'{settings.fallback.arbiter.deadline_ns / 1e6:g} ms, cameras {", ".join(self._channels)}')
        return super().on_configure(state)

    def _load_student(self, name: str) -> Loaded:
        """Read the student's file; return its facts with their judge. Also called on the thread of a swap."""
        path = resolve_model(name, models_folder())
        detector = self._load(path, expected_sha256=pinned_sha256(path))
        return Loaded(_Student(detector.spec, detector.sha256),
                      Judge.of_model(detector.spec, str(path), self.settings.scorer))

    def _take(self, loaded: Loaded) -> None:
        self._student, self._judge = loaded

    def _switch(self, loaded: Loaded) -> None:
        """Follow another student, between two of its results."""
        self._take(loaded)
        fallback = self._complete()
        for camera, channel in self._channels.items():
            channel.follow(FeatureExtractor(self._judge.settings, self._student.spec.labels), self._judge,
                           fallback, self._drift(camera))
        self._set_alarm()

    def _frame_counts(self) -> dict[str, int]:
        return {'verified': sum(c.logic.counts().get('arbiter.outputs', 0) for c in self._channels.values())}

    @logs_errors
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe."""
        result = super().on_activate(state)
        if self._recorder:
            self._recorder.start()
        for channel in self._channels.values():
            channel.subscribe()
        # Only now: what a fallback remembers is of frames that are past, and silence counts from here on.
        for camera, logic in self._logics().items():
            self._channels[camera].restart(logic)
        return result

    @logs_errors
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; what waits goes out with the student's results."""
        self._stop()
        return super().on_deactivate(state)

    @logs_errors
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured."""
        self._fault = f'failed in state {state.label}; see the log'
        self._stop()
        self._release()
        return SUCCESS

    def close(self) -> None:
        """Stop; after a signal the context is gone, and what waited for the teacher with it."""
        self._stop()
        self._swap.close()

    def _build(self) -> None:
        for camera, logic in self._logics().items():
            self._channels[camera] = FallbackChannel(
                self, self.settings, logic, self._judge.wants_scene, self._throttle, self._set_alarm,
                self._teacher_free, self._tick_due, self._recorder, self._drift(camera), self._steady_ns)

    def _drift(self, camera: str) -> FallbackDrift:
        settings, spec = self.settings, self._student.spec
        gate, score = settings.fallback.gate, spec.thresholds.score
        return FallbackDrift(
            camera, self.resolve_topic_name(camera), spec, self._judge.name,
            score if settings.score is None else settings.score, settings.teacher_labels or spec.labels,
            gate.share, gate.audit_share, settings.drift, self._steady_ns)

    def _logics(self) -> dict[str, CameraFallback]:
        """Make a fallback for each camera, with the teacher's breaker and rate that they share."""
        settings, judge, spec = self.settings, self._judge, self._student.spec
        labels = LabelMap.by_name(spec.labels, settings.teacher_labels or spec.labels)
        fallback = self._complete()
        self._breaker = TeacherBreaker(fallback.breaker_settings())
        self._rate = RateBucket(settings.teacher_rate_hz, RATE_BURST)
        self._load_of_teacher = TeacherLoad(fallback.load)
        self._waiting = WaitingFrames()
        return {camera: CameraFallback(
            camera, labels, FeatureExtractor(judge.settings, spec.labels), judge.scorer,
            self._steady_ns(), fallback, settings.seed + index, self._rate, self._breaker,
            self._load_of_teacher, self._waiting)
            for index, camera in enumerate(settings.cameras)}

    def _complete(self) -> Any:
        gate = self.settings.fallback.gate
        return self.settings.complete(
            self._judge.threshold_for(gate.share - gate.audit_share), self._student.spec.thresholds.score,
            not self._judge.knows_shares)

    def _stop(self) -> None:
        self._alarm.cancel()
        for channel in self._channels.values():
            channel.unsubscribe()
        if self._recorder and not self._recorder.stop(RECORDER_STOP_S):
            self.get_logger().error(f'the recorder has not ended within {RECORDER_STOP_S:g} s')

    def _release(self) -> None:
        for channel in self._channels.values():
            channel.destroy()
        self._channels, self._student, self._judge = {}, None, None
        self._states, self._recorder = {}, None
        self._swap.cancel()

    def _apply(self, values: dict[str, Any]) -> None:
        """Take changed parameters over, between two frames."""
        self.settings = FallbackNodeSettings.from_values(values)
        if self._judge is None:
            return
        fallback = self._complete()
        self._breaker.configure(fallback.breaker_settings())
        self._rate.configure(self.settings.teacher_rate_hz, RATE_BURST)
        self._load_of_teacher.configure(fallback.load)
        for channel in self._channels.values():
            channel.logic.configure(fallback)
        self._set_alarm()

    def _tick(self) -> None:
        for channel in self._channels.values():
            channel.tick()
        self._set_alarm()

    def _teacher_free(self) -> None:
        """Ask about what waits most worthily, of all cameras."""
        now_ns = self._steady_ns()
        if any(channel.logic.may_ask_waiting(now_ns) for channel in self._channels.values()):
            self._waiting.ask(now_ns, lambda frame: self._channels[frame.camera].ask_waiting(frame))

    def _tick_due(self) -> None:
        if self._due_ns is not None and self._steady_ns() >= self._due_ns:
            self._tick()

    def _set_alarm(self) -> None:
        """Wake at the next deadline of all cameras; asleep while nothing waits."""
        due = [d for d in (channel.logic.next_deadline() for channel in self._channels.values())
               if d is not None]
        self._due_ns = min(due, default=None)
        if self._due_ns is None:
            self._alarm.cancel()
            return
        self._alarm.timer_period_ns = max(SOON_NS, self._due_ns - self._steady_ns())
        self._alarm.reset()

    def _publish_diagnostics(self) -> None:
        active = self.state == 'active'
        facts = () if self._student is None else (
            ('student', self._student.spec.name), ('student_sha256', self._student.sha256),
            ('scorer', self._judge.name),
            *((f'waiting.{key}', str(count)) for key, count in self._waiting.counts.items()))
        teacher = teacher_report(self._breaker, facts, self._fault, active,
                                 self.settings.fallback.teacher, self._steady_ns())
        reports = [self._swap.annotate(teacher), *recorder_report(self._recorder)]
        for name, channel in self._channels.items():
            report = channel.report(active)
            reports += [report, channel.drift.report()]
            self._log_state(name, dict(report.values).get('state', ''), report.message)
        self.publish_safely(self._diagnostics, diagnostics_message(
            [report.with_values(('lifecycle', self.state)) for report in reports],
            self.get_fully_qualified_name(), self.get_clock().now().to_msg()))

    def _log_state(self, camera: str, state: str, message: str) -> None:
        """Log a change; two call sites, since rclpy's logger keeps one severity for each."""
        if not state or state == self._states.get(camera):
            return
        self._states[camera] = state
        if state == 'NOMINAL':
            self.get_logger().info(f'camera {camera}: {message}')
        else:
            self.get_logger().warning(f'camera {camera}: {message}')


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to end."""
    return run_node(FallbackNode, args)


if __name__ == '__main__':
    exit_code = main()
    signals.ignore()
    sys.exit(exit_code)
