# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""An image topic as a node receives it: what was lost on the way, and why nothing comes."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from kd_perception.health.silent_topic import COMPRESSED, explain_silence, Publisher, RAW, reception_values
from kd_perception.levels import Level, Report

_TYPES = {Image: RAW, CompressedImage: COMPRESSED}


class ImageInput:
    """
    Subscribes to the images of one camera, as often as it is asked to.

    :param node: an rclpy node.
    :param warn: takes (reason, text), where a publisher's QoS does not match.
    :ivar lost: images that the middleware knows to have been lost, in all.
    """

    def __init__(self, node: Any, message_type: type, topic: str, profile: QoSProfile,
                 warn: Callable[[str, str], None]):
        """Remember what to subscribe to."""
        self._node, self._type, self._topic, self._profile = node, message_type, topic, profile
        self._warn = warn
        self._name = node.resolve_topic_name(topic)
        self.lost = self.mismatches = 0

    def subscribe(self, callback: Callable[[Any], None], raw: bool = False) -> Any:
        """Return a new subscription; the node owns it."""
        def create(**events: Any) -> Any:
            return self._node.create_subscription(
                self._type, self._topic, callback, self._profile, raw=raw,
                event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_mismatch, **events))
        try:
            return create(message_lost=self._on_lost)
        except UnsupportedEventTypeError:       # not every middleware can tell
            return create()

    def annotate(self, report: Report, silent: bool) -> Report:
        """
        Return a camera's report with what the graph says.

        :param silent: the report complains that no image comes: say why.
        """
        publishers = self._publishers()
        report = dataclasses.replace(report, values=(
            *report.values, *reception_values(len(publishers), self.lost, self.mismatches)))
        if not silent or report.level == Level.OK:
            return report
        reliable = self._profile.reliability == ReliabilityPolicy.RELIABLE
        # Only those that somebody publishes: this very subscription makes a topic, too.
        topics = {name: types for name, types in self._node.get_topic_names_and_types()
                  if {RAW, COMPRESSED} & set(types) and self._node.count_publishers(name)}
        reason = explain_silence(self._name, _TYPES[self._type], reliable, publishers, topics, self.lost)
        return dataclasses.replace(report, message=f'{report.message}: {reason}')

    def _publishers(self) -> list[Publisher]:
        return [Publisher(f'{info.node_namespace.rstrip("/")}/{info.node_name}', info.topic_type,
                          info.qos_profile.reliability == ReliabilityPolicy.RELIABLE, info.qos_profile.depth)
                for info in self._node.get_publishers_info_by_topic(self._name)]

    def _on_lost(self, status: Any) -> None:
        self.lost += max(0, status.total_count_change)

    def _on_mismatch(self, status: Any) -> None:
        self.mismatches += max(0, status.total_count_change)
        self._warn('qos_mismatch', f'a publisher of {self._name} offers a quality of service that '
                                   'image_reliability does not match')
