# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""From health reports to the messages of /diagnostics."""

from collections.abc import Sequence

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from kd_perception.health.levels import Report


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
