# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The topics of a replay: what it publishes, whom it waits for, and the answers that it waits for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import fnmatch
import importlib
from typing import Any

from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from kd_perception.bags.salvage import Record
from kd_perception.errors import BagError, one_line, RosInterfaceError
from kd_perception.messages import build as messages
from kd_perception.messages.typestore import COMPRESSED_IMAGE, IMAGE, other_layout
from kd_perception.nodes.replay.images import with_stamp
from kd_perception.nodes.replay.parameters import ReplaySettings
from kd_perception.nodes.shared import qos
from kd_perception.nodes.shared.runtime import RCLError
from kd_perception.nodes.shared.vision_messages import Detection2DArray
from kd_perception.sources.any_source import BagSource
from kd_perception.sources.frames import FrameSource, NS_PER_S

# Reliable offers match reliable and best-effort readers alike.
PLAYED = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE,
                    durability=DurabilityPolicy.VOLATILE)
CLOCK = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT,
                   durability=DurabilityPolicy.VOLATILE)
# Whoever answers may see our readers of answers later than we see its readers of images, and an answer that
# it publishes before is lost. DDS gives no sign of it; rmw_fastrtps waits 0.1 s in the same case (a service).
SETTLE_NS = 500_000_000
# What the perception chain publishes itself: the recorded ones would mix with the live ones.
_OURS = ('/detections', '/verified_detections', '/label_info', '/provenance', '/debug_image', '/annotations')
_NEVER = ('/clock', '/rosout', '/parameter_events', '/diagnostics', '/events/write_split')
# These names mean the same in every namespace.
_GLOBAL = ('/tf', '/tf_static')


def wanted_topic(topic: str, patterns: Sequence[str]) -> bool:
    """Tell whether a recorded topic that is no camera is to be played."""
    if topic in _NEVER or topic.endswith(_OURS) or '/teacher/' in topic:
        return False
    return any(fnmatch.fnmatchcase(topic, pattern) for pattern in patterns)


def load_message_type(name: str) -> Any:
    """
    Return the Python class of a ROS message type.

    :param name: such as `sensor_msgs/msg/Imu`.
    :raises RosInterfaceError: it is not installed.
    """
    try:
        package, kind, message = name.split('/')
        if kind != 'msg' or not package.isidentifier():
            raise ValueError(name)
        return getattr(importlib.import_module(f'{package}.msg'), message)
    except (ImportError, AttributeError, ValueError):
        raise RosInterfaceError(f'message type {name[:100]} is not installed') from None


class ReplayTopics:
    """
    Publishers of a replay.

    :param steady: steady clock, nanoseconds.
    :ivar frames: images published, per camera.
    :ivar unpublished: messages that the middleware refused.
    :ivar skipped: recorded topics that cannot be played, and why.
    """

    def __init__(self, node: Any, source: FrameSource, settings: ReplaySettings, steady: Callable[[], int]):
        """
        Create a publisher for each camera, and for each further topic whose type is installed.

        :raises RosInterfaceError: a camera's name is no topic name.
        """
        self._node, self._settings, self._steady = node, settings, steady
        self.frames = {camera.name: 0 for camera in source.cameras}
        self.unpublished = 0
        self.skipped: dict[str, str] = {}
        self._images: dict[tuple[str, str], Any] = {}
        for camera in source.cameras:
            compressed = settings.image_transport == 'compressed' or (
                settings.image_transport == 'recorded' and camera.msgtype == COMPRESSED_IMAGE)
            kind, topic = (CompressedImage, 'image_raw/compressed') if compressed else (Image, 'image_raw')
            try:
                publisher = node.create_publisher(kind, f'{camera.name}/{topic}', PLAYED)
            except InvalidTopicNameException as error:
                raise RosInterfaceError(
                    f'camera {camera.name!r} cannot be a topic ({one_line(error, 120)}); name it with the '
                    'parameter cameras') from None
            self._images[camera.name, COMPRESSED_IMAGE if compressed else IMAGE] = publisher
        self._clock_out = node.create_publisher(Clock, '/clock', CLOCK) if settings.publish_clock else None
        self._others: dict[str, Any] = {}
        if isinstance(source, BagSource):
            self._create_others(source)

    def _create_others(self, source: BagSource) -> None:
        for name, topic in source.topics.items():
            if topic.msgtype in (IMAGE, COMPRESSED_IMAGE):
                if name not in (camera.topic for camera in source.cameras):
                    self.skipped[name] = 'an image topic that is not among the cameras'
                continue
            if not wanted_topic(name, self._settings.other_topics):
                continue
            try:
                if other_layout(topic.msgtype, topic.definition):
                    raise RosInterfaceError(f'recorded with another version of {topic.msgtype}')
                message_type = load_message_type(topic.msgtype)
            except RosInterfaceError as error:
                self.skipped[name] = str(error)
                self._node.get_logger().warning(f'{name}: not played: {error}')
                continue
            profile = qos.LATCHED if topic.latched or name == '/tf_static' else PLAYED
            self._others[name] = self._node.create_publisher(
                message_type, name if name in _GLOBAL else name.lstrip('/'), profile)

    def publish_image(self, camera: str, raw: bytes, msgtype: str) -> int:
        """Publish a serialised image; return 1, or 0 where the middleware refused it."""
        sent = self._publish(self._images[camera, msgtype], raw)
        self.frames[camera] += sent
        return sent

    def publish_other(self, record: Record) -> int:
        """Publish a recorded message as it is; return 1, or 0 where its topic is not played."""
        publisher = self._others.get(record.topic)
        return 0 if publisher is None else self._publish(publisher, record.raw)

    def _publish(self, publisher: Any, raw: bytes) -> int:
        try:
            publisher.publish(raw)
        except RCLError as error:
            if not self._node.context.ok():
                raise
            self.unpublished += 1
            self._node.get_logger().error(f'{publisher.topic_name}: not published: {one_line(error)}',
                                          throttle_duration_sec=1.0)
            return 0
        return 1

    def publish_clock(self, recorded_ns: int) -> None:
        """Publish the recorded time on /clock."""
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(recorded_ns, NS_PER_S)
        self._clock_out.publish(message)

    def stamped_now(self, raw: bytes) -> tuple[bytes, int]:
        """Return a serialised image with the stamp of this moment, and the stamp."""
        now_ns = self._node.get_clock().now().nanoseconds
        return with_stamp(raw, now_ns), now_ns

    def wait_for_peers(self, lockstep: Lockstep | None, spin: Callable[[], None]) -> None:
        """
        Wait until each image topic has its subscribers.

        In lockstep also until each answer has a publisher, and then SETTLE_NS more.

        :param spin: serves callbacks for a while.
        :raises RosInterfaceError: lockstep, and the time is up; without lockstep this is a warning.
        """
        limit_s = self._settings.wait_for_subscribers_s
        end_ns = self._steady() + round(limit_s * 1e9)
        while True:
            missing = [publisher.topic_name for publisher in self._images.values()
                       if publisher.get_subscription_count() < self._settings.min_subscribers]
            missing += lockstep.topics_without_publisher() if lockstep else []
            if not missing or not self._node.context.ok():
                break
            if self._steady() >= end_ns:
                self._without_peers(missing, lockstep)
                return
            spin()
        settled_ns = self._steady() + SETTLE_NS
        while lockstep and self._steady() < settled_ns and self._node.context.ok():
            spin()

    def _without_peers(self, missing: Sequence[str], lockstep: Lockstep | None) -> None:
        limit_s = self._settings.wait_for_subscribers_s
        who = 'nobody' if self._settings.min_subscribers == 1 else 'not everybody'
        text = f'{who} at the other end of {", ".join(missing)} after {limit_s:g} s'
        if lockstep:
            raise RosInterfaceError(f'lockstep: {text}')
        if limit_s:
            self._node.get_logger().warning(f'{text}; playing all the same')

    def wait_for_acks(self, timeout_s: float) -> None:
        """Give reliable readers a moment to fetch the last messages."""
        if self._node.context.ok():
            for publisher in (*self._images.values(), *self._others.values()):
                publisher.wait_for_all_acked(Duration(seconds=timeout_s))


class Lockstep:
    """
    Waits for the answer to one image at a time.

    :ivar answers, timeouts: images answered and given up.
    :ivar unexpected: messages with another stamp (late answers, other publishers).
    :ivar answer: the last answer, serialised.
    """

    def __init__(self, node: Any, cameras: Sequence[str], topic: str):
        """Subscribe to the answers of each camera."""
        self.answers = self.timeouts = self.unexpected = 0
        self.answer = b''
        self._expected: tuple[str, int] | None = None
        self._node = node
        # Raw: only the stamp is of interest.
        self._subscriptions = {camera: node.create_subscription(
            Detection2DArray, f'{camera}/{topic}', lambda raw, camera=camera: self._on_answer(camera, raw),
            qos.RESULTS, raw=True) for camera in cameras}

    @property
    def waiting(self) -> bool:
        """Whether an answer is still missing."""
        return self._expected is not None

    def expect(self, camera: str, stamp_ns: int) -> None:
        """Begin to wait for the answer to an image."""
        self._expected = camera, stamp_ns

    def give_up(self) -> None:
        """Count the answer as missing."""
        self._expected = None
        self.timeouts += 1

    def topics_without_publisher(self) -> list[str]:
        """Return the answer topics that nobody publishes."""
        return [item.topic_name for item in self._subscriptions.values()
                if not self._node.count_publishers(item.topic_name)]

    def topic_of(self, camera: str) -> str:
        """Return the full name of a camera's answers."""
        return self._subscriptions[camera].topic_name

    def _on_answer(self, camera: str, raw: bytes) -> None:
        try:
            stamp_ns = messages.parse_header(raw)[0]
        except BagError:
            stamp_ns = None
        if (camera, stamp_ns) == self._expected:
            self._expected, self.answer = None, bytes(raw)
            self.answers += 1
        else:
            self.unexpected += 1
