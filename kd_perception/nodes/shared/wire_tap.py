# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Keep messages as they arrive, serialised: for recordings that are compared byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import time
from typing import Any, NamedTuple

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from kd_perception.nodes.shared import qos

# Deep enough for a reader that is busy for some seconds.
RECORDED = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=200, reliability=ReliabilityPolicy.RELIABLE,
                      durability=DurabilityPolicy.VOLATILE)


class Recorded(NamedTuple):
    """A message as it came off the wire, and when (steady clock)."""

    topic: str
    raw: bytes
    arrival_ns: int


class Recorder:
    """
    Subscribes to topics and keeps what arrives.

    :param topics: name -> message class.
    :param latched: names of transient-local topics.
    :param clock: steady clock, nanoseconds.
    """

    def __init__(self, node: Any, topics: Mapping[str, Any], latched=(),
                 clock: Callable[[], int] = time.monotonic_ns):
        """Subscribe."""
        self.messages: list[Recorded] = []
        self._node, self._clock = node, clock
        self._subscriptions = {
            name: node.create_subscription(
                kind, name, lambda raw, name=name: self._keep(name, raw),
                qos.LATCHED if name in latched else RECORDED, raw=True)
            for name, kind in topics.items()}

    def _keep(self, topic: str, raw: bytes) -> None:
        self.messages.append(Recorded(topic, bytes(raw), self._clock()))

    def of(self, topic: str) -> list[Recorded]:
        """Return the messages of a topic in the order of their arrival."""
        return [message for message in self.messages if message.topic == topic]

    def publishers(self, topic: str) -> int:
        """Return how many publishers a topic of ours has."""
        return self._node.count_publishers(self._subscriptions[topic].topic_name)
