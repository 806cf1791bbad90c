# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""One camera of a detector: its topics, its monitor, and its frames on the way to the worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from kd_perception.drift.camera_drift import CameraDrift
from kd_perception.health.camera_monitor import CameraMonitor
from kd_perception.levels import Report
from kd_perception.nodes.detector.parameters import DetectorSettings
from kd_perception.nodes.shared import qos
from kd_perception.nodes.shared.conversions import label_info_message, stamp_to_ns
from kd_perception.nodes.shared.image_input import ImageInput
from kd_perception.nodes.shared.throttle import Throttle
from kd_perception.nodes.shared.vision_messages import Detection2DArray, LabelInfo


class Frame(NamedTuple):
    """A message that waits for the worker, and when it arrived (steady clock)."""

    message: Image | CompressedImage
    arrival_ns: int


class CameraChannel:
    """
    The topics of one camera.

    :param node: a lifecycle node; owns publishers and subscription.
    :param clock: steady clock, nanoseconds.
    """

    def __init__(self, node: Any, name: str, settings: DetectorSettings, throttle: Throttle,
                 clock: Callable[[], int]):
        """Create the publishers; they are silent until the node is active."""
        self.name = name
        self.class_numbers = settings.class_numbers
        self._node = node
        self._throttle = throttle
        self._clock = clock
        message_type, topic = (
            (CompressedImage, 'image_raw/compressed') if settings.compressed else (Image, 'image_raw'))
        self._input = ImageInput(node, message_type, f'{name}/{topic}',
                                 qos.image_input(settings.reliable, settings.image_depth), self.warn)
        self.detections = node.create_lifecycle_publisher(Detection2DArray, f'{name}/detections', qos.RESULTS)
        self.candidates = node.create_lifecycle_publisher(Detection2DArray, f'{name}/candidates', qos.RESULTS)
        self.label_info = node.create_lifecycle_publisher(LabelInfo, f'{name}/label_info', qos.LATCHED)
        self.debug_image = node.create_lifecycle_publisher(Image, f'{name}/debug_image', qos.DEBUG_IMAGE)
        self._subscription = None
        self.monitor = CameraMonitor(name, node.resolve_topic_name(name), settings.limits, clock)
        self.drift = CameraDrift(name, node.resolve_topic_name(name), settings.drift, clock)

    def subscribe(self, deliver: Callable[[str, Frame], None]) -> None:
        """
        Start to receive images.

        :param deliver: takes (camera, frame) on the executor's thread.
        """
        self._deliver = deliver
        self.monitor.set_active(True)
        self._subscription = self._input.subscribe(self._on_image)

    def unsubscribe(self) -> None:
        """Stop receiving images."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
        self.monitor.set_active(False)
        self.drift.reset()

    def destroy(self) -> None:
        """Give the topics back."""
        self.unsubscribe()
        for publisher in (self.detections, self.candidates, self.label_info, self.debug_image):
            self._node.destroy_lifecycle_publisher(publisher)

    def publish_label_info(self, labels: Sequence[str], threshold: float) -> None:
        """Publish the class map (latched), stamped now."""
        header = Header(stamp=self._node.get_clock().now().to_msg())
        self._node.publish_safely(self.label_info, label_info_message(labels, threshold, header))

    def report(self) -> Report:
        """Return the camera's report; where no image comes, with the reason that the graph knows."""
        report = self.monitor.report()
        return self._input.annotate(report, dict(report.values)['state'] in ('waiting', 'stale'))

    def drop(self, reason: str, detail: str = '') -> None:
        """Count a lost frame; log it, at most once a second for a reason, unless it was lost on purpose."""
        self.monitor.dropped(reason)
        if detail:
            self.warn(reason, f'frame dropped ({detail})')

    def warn(self, reason: str, text: str) -> None:
        """Log a warning about this camera, at most once a second for a reason."""
        silent = self._throttle.permit((self.name, reason))
        if silent is not None:
            more = f'; {silent} more like it since the last such line' if silent else ''
            self._node.get_logger().warning(f'camera {self.name}: {text}{more}')

    def age_ns(self, message: Image | CompressedImage) -> int | None:
        """Return the time since the message's stamp by the node's clock, at least 0; None without a stamp."""
        stamp_ns = stamp_to_ns(message.header.stamp)
        return max(0, self._node.get_clock().now().nanoseconds - stamp_ns) if stamp_ns else None

    def _on_image(self, message: Image | CompressedImage) -> None:
        frame = Frame(message, self._clock())
        self.monitor.received(self.age_ns(message))
        self._deliver(self.name, frame)
