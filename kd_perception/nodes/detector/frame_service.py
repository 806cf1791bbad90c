# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What runs while a detector is active: cameras fill the mailbox, one worker empties it into the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.health.camera_monitor import DEACTIVATED, SUPERSEDED
from kd_perception.health.model_monitor import ModelMonitor
from kd_perception.nodes.detector.camera_channel import CameraChannel, Frame
from kd_perception.nodes.detector.frame_pipeline import FramePipeline
from kd_perception.nodes.detector.mailbox import Mailbox
from kd_perception.nodes.detector.parameters import Thresholds
from kd_perception.nodes.detector.worker import Worker


class FrameService:
    """
    Started by activate, stopped by deactivate, not started again.

    :param clock: steady clock, nanoseconds.
    """

    def __init__(self, detector: OnnxDetector, channels: Mapping[str, CameraChannel],
                 model_monitor: ModelMonitor, thresholds: Thresholds, clock: Callable[[], int]):
        """Start the worker and subscribe to the cameras."""
        self._channels = channels
        self._pipeline = FramePipeline(detector, channels, model_monitor, thresholds, clock)
        self._mailbox = Mailbox(list(channels), clock)
        self._worker = Worker(self._mailbox, self._pipeline.process, self._pipeline.fail)
        self._worker.start()
        for channel in channels.values():
            channel.subscribe(self._deliver)

    def set_thresholds(self, thresholds: Thresholds) -> None:
        """Use other thresholds from the next frame on."""
        self._pipeline.thresholds = thresholds

    def set_detector(self, detector: OnnxDetector) -> None:
        """Use another model from the next frame on; one in work is finished by the present one."""
        self._pipeline.detector = detector

    def stop(self, timeout_s: float) -> bool:
        """
        Unsubscribe, finish the frame in work, count those that waited.

        :return: whether the worker has ended; one that has not is given up: it publishes nothing any more.
        """
        for channel in self._channels.values():
            channel.unsubscribe()
        left, ended = self._worker.stop(timeout_s)
        self._pipeline.abandoned = not ended
        for camera, _ in left:
            self._channels[camera].drop(DEACTIVATED)
        return ended

    def _deliver(self, camera: str, frame: Frame) -> None:
        if self._mailbox.put(camera, frame) is not None:
            self._channels[camera].drop(SUPERSEDED)
