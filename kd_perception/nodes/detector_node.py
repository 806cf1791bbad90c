# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""detector_node: camera images in, vision_msgs/Detection2DArray out. See docs/reference/detector_node.md."""

from __future__ import annotations

if __name__ == '__main__':
    from kd_perception.nodes.shared import signals
    signals.leave_at_once()     # before the imports below, which take a second

from collections.abc import Callable
import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from kd_perception.detection.model_loading import OPENVINO
from kd_perception.detection.onnx_detector import OnnxDetector, PROVIDERS
from kd_perception.errors import KdPerceptionError, one_line
from kd_perception.health.model_monitor import model_facts, ModelMonitor
from kd_perception.models.manifest import pinned_sha256, resolve_model
from kd_perception.nodes.detector.camera_channel import CameraChannel
from kd_perception.nodes.detector.frame_service import FrameService
from kd_perception.nodes.detector.parameters import check_combination, DETECTOR_PARAMETERS, DetectorSettings
from kd_perception.nodes.shared import parameters, qos
from kd_perception.nodes.shared.diagnostics import diagnostics_message
from kd_perception.nodes.shared.model_swap import Loaded, ModelSwap
from kd_perception.nodes.shared.runtime import logs_errors, RobustLifecycleNode, run_node
from kd_perception.nodes.shared.throttle import Throttle
from kd_perception.resources import models_folder

DIAGNOSTICS_PERIOD_S = 1.0
LOG_PERIOD_NS = 1_000_000_000
# An inference that takes longer than this is taken for hung.
STOP_TIMEOUT_S = 10.0
SUCCESS, FAILURE, ERROR = (
    TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE, TransitionCallbackReturn.ERROR)


class DetectorNode(RobustLifecycleNode):
    """
    Lifecycle node: configure loads and warms up the model, activate subscribes. A change of the parameter
    `model` while it works is a swap, see `ModelSwap`.

    The executor's thread only receives and answers; one worker thread runs the model for all cameras.

    :param load: loads a model; a seam for tests.
    :param clock: steady clock, nanoseconds.
    """

    def __init__(self, load: Callable[..., OnnxDetector] = OnnxDetector.load,
                 clock: Callable[[], int] = time.monotonic_ns, **kwargs: Any):
        """Declare parameters and start the diagnostics; nothing is loaded yet."""
        super().__init__('detector', **kwargs)
        self._load, self._steady_ns = load, clock
        self._detector: OnnxDetector | None = None
        self._channels: dict[str, CameraChannel] = {}
        self._service: FrameService | None = None
        self._fault = ''
        self._model_monitor = ModelMonitor(clock)
        self._throttle = Throttle(LOG_PERIOD_NS, clock)
        self.settings = DetectorSettings.from_values(parameters.declare_parameters(self, DETECTOR_PARAMETERS))
        parameters.guard_changes(
            self, DETECTOR_PARAMETERS, lambda: self.state == 'unconfigured', check_combination, self._apply)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', qos.DIAGNOSTICS)
        self._swap = ModelSwap(self, 'model', self._load_model, lambda: self._detector, self._switch,
                               self._frame_counts, self._publish_diagnostics)
        # A steady clock: under use_sim_time a ROS timer would stand still with the simulation.
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics,
                          clock=Clock(clock_type=ClockType.STEADY_TIME))

    def start(self) -> None:
        """Configure and activate where `autostart` says so; a failure leaves the node unconfigured."""
        if self.settings.autostart and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and warm up the model; a bad one fails with one line in log and diagnostics."""
        settings = self.settings
        self.get_logger().info(f'loading model {settings.model}')
        try:
            detector, facts = self._load_model(settings.model)
            for camera in settings.cameras:
                self._channels[camera] = CameraChannel(
                    self, camera, settings, self._throttle, self._steady_ns)
        except Exception as error:  # what a runtime or driver raises is no reason to die either
            known = isinstance(error, KdPerceptionError)
            reason = one_line(error if known else f'{type(error).__name__}: {error}')
            self._release()
            self._model_monitor.failed(reason, (('model', settings.model),))
            self.get_logger().error(f'configure failed: {reason}')
            return FAILURE
        self._detector = detector
        self._swap.configured()
        self._model_monitor.loaded(facts, detector.sha256[:12])
        self.get_logger().info(f'model {detector.spec.name} ready: sha256 {detector.sha256[:12]}, '
                               f'{detector.provider}, cameras {", ".join(self._channels)}')
        return super().on_configure(state)

    def _load_model(self, name: str) -> Loaded:
        """Load and warm up a model; return it with its facts. Also called on the thread of a swap."""
        settings, start_ns = self.settings, self._steady_ns()
        path = resolve_model(name, models_folder())
        detector = self._load(path, settings.execution, settings.expected_sha256 or pinned_sha256(path))
        wanted = settings.execution.provider
        if detector.provider not in (PROVIDERS[wanted], OPENVINO):    # as provider_fallback allows
            self.get_logger().warning(
                f'provider {wanted} is missing in this onnxruntime: {detector.provider} runs the model')
        detector.warm_up()
        load_ms = f'{(self._steady_ns() - start_ns) / 1e6:.0f}'
        return Loaded(detector, (*model_facts(detector, settings.execution), ('load_ms', load_ms)))

    def _switch(self, loaded: Loaded) -> None:
        before, self._detector = self._detector, loaded.detector
        if self._service is not None:
            self._service.set_detector(loaded.detector)
        self._model_monitor.loaded(loaded.extra, loaded.detector.sha256[:12])
        if self.state == 'active' and before.spec.thresholds.score != loaded.detector.spec.thresholds.score:
            self._publish_label_info()

    def _frame_counts(self) -> dict[str, int]:
        totals = [channel.monitor.totals() for channel in self._channels.values()]
        return {'processed': sum(processed for processed, _ in totals),
                'dropped': sum(dropped for _, dropped in totals)}

    @logs_errors
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker and subscribe."""
        result = super().on_activate(state)
        self._service = FrameService(
            self._detector, self._channels, self._model_monitor, self.settings.thresholds, self._steady_ns)
        self._apply_settings()
        self._publish_label_info()
        return result

    @logs_errors
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, finish the frame in work, count what waited."""
        if not self._stop():
            self._fault = f'the model has not answered for {STOP_TIMEOUT_S:g} s and was given up'
            self.get_logger().error(self._fault)
            return ERROR
        return super().on_deactivate(state)

    @logs_errors
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, from where a new configure may succeed."""
        self._stop()
        self._release()
        self._model_monitor.failed(self._fault or f'failed in state {state.label}; see the log')
        self._fault = ''
        return SUCCESS

    def close(self) -> None:
        """Stop the worker; the process is about to end."""
        self._stop()
        self._swap.close()

    def _stop(self) -> bool:
        """Return whether the worker has ended (also where there was none)."""
        service, self._service = self._service, None
        return service is None or service.stop(STOP_TIMEOUT_S)

    def _release(self) -> None:
        for channel in self._channels.values():
            channel.destroy()
        self._channels, self._detector = {}, None
        self._swap.cancel()
        self._model_monitor.unloaded()

    def _apply(self, values: dict[str, Any]) -> None:
        """Take changed parameters over; the worker sees the new thresholds with its next frame."""
        before, self.settings = self.settings, DetectorSettings.from_values(values)
        self._apply_settings()
        if self.state == 'active' and before.thresholds.score != self.settings.thresholds.score:
            self._publish_label_info()

    def _apply_settings(self) -> None:
        if self._service is not None:
            self._service.set_thresholds(self.settings.thresholds)
        for channel in self._channels.values():
            channel.monitor.set_limits(self.settings.limits)
            channel.monitor.set_enabled(self.settings.thresholds.enabled)

    def _publish_label_info(self) -> None:
        spec, score = self._detector.spec, self.settings.thresholds.score
        for channel in self._channels.values():
            channel.publish_label_info(spec.labels, spec.thresholds.score if score is None else score)

    def _publish_diagnostics(self) -> None:
        reports = [self._swap.annotate(self._model_monitor.report()),
                   *(c.report() for c in self._channels.values()),
                   *(c.drift.report() for c in self._channels.values())]
        reports = [report.with_values(('lifecycle', self.state)) for report in reports]
        self.publish_safely(self._diagnostics, diagnostics_message(
            reports, self.get_fully_qualified_name(), self.get_clock().now().to_msg()))


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to end."""
    return run_node(DetectorNode, args)


if __name__ == '__main__':
    exit_code = main()
    signals.ignore()
    sys.exit(exit_code)
