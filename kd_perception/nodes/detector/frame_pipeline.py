# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What the worker does with a frame: decode, detect, publish, measure. A failure costs that frame only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from kd_perception.boxes.detections import Detections
from kd_perception.detection.drawing import draw_detections
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import ImageError
from kd_perception.health.camera_monitor import DISABLED
from kd_perception.health.model_monitor import ModelMonitor
from kd_perception.messages.wire import NS_PER_S, write_result
from kd_perception.models.spec import ModelSpec
from kd_perception.nodes.detector.camera_channel import CameraChannel, Frame
from kd_perception.nodes.detector.parameters import Thresholds
from kd_perception.nodes.shared.conversions import (
    bgr_to_image,
    compressed_to_bgr,
    detections_to_message,
    image_to_bgr,
    stamp_to_ns,
)
from kd_perception.nodes.shared.vision_messages import Detection2DArray

# Reasons for a dropped frame beyond those of `images.raw.REASONS`.
INFERENCE_ERROR = 'inference_error'
PUBLISH_ERROR = 'publish_error'
INTERNAL_ERROR = 'internal_error'


class FramePipeline:
    """
    Runs on the worker's thread.

    :param detector, thresholds: replaced as a whole by the executor's thread, read once a frame.
    :param clock: steady clock, nanoseconds.
    """

    def __init__(self, detector: OnnxDetector, channels: Mapping[str, CameraChannel],
                 model_monitor: ModelMonitor, thresholds: Thresholds, clock: Callable[[], int]):
        """Wire the stages together."""
        self.thresholds = thresholds
        self.abandoned = False
        self.detector = detector
        self._channels = channels
        self._model_monitor = model_monitor
        self._clock = clock

    def process(self, camera: str, frame: Frame) -> None:
        """
        Turn one frame into exactly one message on `detections`, or into one counted drop.

        Whoever listens to `candidates` gets the same frame's boxes down to the model's low threshold.
        """
        channel, thresholds, detector = self._channels[camera], self.thresholds, self.detector
        taken_ns = self._clock()
        if not thresholds.enabled:
            channel.drop(DISABLED)
            return
        message = frame.message
        try:
            decode = compressed_to_bgr if isinstance(message, CompressedImage) else image_to_bgr
            image = decode(message)
        except ImageError as error:
            channel.drop(error.reason, str(error))
            return
        decoded_ns = self._clock()
        own = detector.spec.thresholds
        score = own.score if thresholds.score is None else thresholds.score
        # Boxes below the working threshold suppress none above it: the results are those of one threshold.
        wanted = channel.candidates.get_subscription_count() > 0
        try:
            result = detector.detect(
                image, min(own.score_low, score) if wanted else score, thresholds.nms_iou,
                thresholds.max_detections)
        except Exception as error:  # whatever a runtime raises must not end the other cameras' service
            self._model_monitor.inference_failed(str(error))
            channel.drop(INFERENCE_ERROR, f'{INFERENCE_ERROR}: {error}')
            return
        self._model_monitor.inference_passed()
        if self.abandoned:
            return
        detected_ns = self._clock()
        labels = detector.spec.labels
        found = result.detections.above(score) if wanted else result.detections
        try:
            ids = [str(number) for number in range(len(labels))] if channel.class_numbers else labels
            channel.detections.publish(_result_message(found, ids, message.header))
            if wanted:
                channel.candidates.publish(_result_message(result.detections, labels, message.header))
        except Exception as error:  # RCLError: the middleware refused, or the context is shutting down
            channel.drop(PUBLISH_ERROR, f'{PUBLISH_ERROR}: {error}')
            return
        published_ns = self._clock()
        total_ns, timings = published_ns - frame.arrival_ns, result.timings
        stages = {
            'wait': taken_ns - frame.arrival_ns, 'decode': decoded_ns - taken_ns,
            'preprocess': timings.preprocess_ns, 'inference': timings.inference_ns,
            'postprocess': timings.postprocess_ns, 'publish': published_ns - detected_ns,
            'total': total_ns, 'overhead': total_ns - timings.inference_ns}
        age_ns = channel.age_ns(message)
        if age_ns is not None:
            stages['age'] = age_ns
            stages['staleness'] = age_ns - timings.inference_ns
        channel.monitor.processed(stages, len(found))
        self._publish_debug_image(channel, image, found, labels, message)
        self._watch_drift(channel, detector.spec, image, result.detections, thresholds)

    def fail(self, camera: str, error: Exception) -> None:
        """Count what `process` did not foresee: a fault of this package, and still only one frame's."""
        self._channels[camera].drop(INTERNAL_ERROR, f'{INTERNAL_ERROR}: {type(error).__name__}: {error}')

    def _watch_drift(self, channel: CameraChannel, spec: ModelSpec, image: np.ndarray,
                     detections: Detections, thresholds: Thresholds) -> None:
        """Show the drift monitor the frame, with the answers as far as they are those of its thresholds."""
        score = spec.thresholds.score
        comparable = ((thresholds.score is None or thresholds.score <= score)
                      and thresholds.nms_iou is None and thresholds.max_detections is None)
        try:
            channel.drift.update(spec, image, detections if comparable else None)
        except Exception as error:  # the frame's result is out
            channel.warn('drift', f'drift monitor failed ({type(error).__name__}: {error})')

    def _publish_debug_image(self, channel: CameraChannel, image: np.ndarray, detections: Detections,
                             labels: Sequence[str], message) -> None:
        try:
            if channel.debug_image.get_subscription_count() == 0:
                return
            drawn = draw_detections(image, detections, labels)
            channel.debug_image.publish(bgr_to_image(drawn, message.header))
        except Exception as error:  # the frame's result is out: a lost picture is worth a line, not a drop
            channel.warn('debug_image', f'debug image lost ({error})')


def _result_message(detections: Detections, labels: Sequence[str],
                    header: Header) -> bytes | Detection2DArray:
    """Return what is published of one frame: the serialised message, which costs a tenth of the object."""
    if header.stamp.nanosec >= NS_PER_S:
        # A stamp that is none goes out as it came in; numbers of nanoseconds would mend it.
        return detections_to_message(detections, labels, header)
    return write_result(detections, labels, stamp_to_ns(header.stamp), header.frame_id)
