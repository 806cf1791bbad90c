# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Between health reports and the messages of /diagnostics."""

from collections.abc import Callable, Sequence
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.serialization import deserialize_message

from kd_perception.levels import Report
from kd_perception.monitoring.board import RawStatus
from kd_perception.nodes.shared import qos

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
TOO_LARGE, UNDECODABLE = 'too_large', 'undecodable'


def diagnostics_message(reports: Sequence[Report], node_name: str, stamp: Time) -> DiagnosticArray:
    """
    Make one DiagnosticArray.

    :param node_name: fully qualified; statuses are named `<node>: <component>`, as diagnostic_updater
        does, so that an aggregator can group them.
    """
    message = DiagnosticArray()
    message.header.stamp = stamp
    for report in reports:
        message.status.append(DiagnosticStatus(
            level=bytes([int(report.level)]), name=f'{node_name.lstrip("/")}: {report.name}',
            message=report.message,
            hardware_id=report.hardware_id,
            values=[KeyValue(key=key, value=value) for key, value in report.values]))
    return message


def subscribe_diagnostics(node: Any, hear: Callable[[list[RawStatus]], Any],
                          refuse: Callable[[str], None]) -> None:
    """
    Listen to /diagnostics, where anybody may publish: nothing that comes there can end the process.

    :param hear: called with the statuses of each message. :param refuse: called with the reason for each
        message that is too large or cannot be read, which would raise in the executor otherwise.
    """
    def on_message(raw: bytes) -> None:
        if len(raw) > MAX_MESSAGE_BYTES:
            refuse(TOO_LARGE)
            return
        try:
            message = deserialize_message(raw, DiagnosticArray)
        except Exception:       # of rmw, or a text that is no UTF-8
            refuse(UNDECODABLE)
            return
        hear([RawStatus(status.name, status.level[0], status.message, status.hardware_id,
                        [(pair.key, pair.value) for pair in status.values]) for status in message.status])

    node.create_subscription(DiagnosticArray, '/diagnostics', on_message, qos.DIAGNOSTICS_INPUT, raw=True)
