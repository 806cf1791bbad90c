# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The parameters of metrics_node and their typed form. Free of ROS."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from kd_perception.nodes.shared.parameters import ParameterSpec, require_valid

METRICS_PARAMETERS = (
    ParameterSpec(
        'address', 'string', '127.0.0.1',
        'Address to listen on; the default is for this computer alone, 0.0.0.0 for whoever reaches it.',
        changes='start', section='Where Prometheus finds it'),
    ParameterSpec(
        'port', 'int', 9464,
        'Port to listen on; 0: a free one, which the log names.', changes='start', minimum=0, maximum=65535),
    ParameterSpec(
        'nodes', 'string_list', ['*'],
        'Patterns (*, ?) of the fully qualified nodes whose diagnostics are exported.', changes='start',
        section='What it exports'),
    ParameterSpec(
        'stale_s', 'double', 5.0,
        'A node without a report for this long is down, and its figures are no longer exported.',
        changes='start', minimum=1.5, maximum=3600.0),
    ParameterSpec(
        'forget_s', 'double', 86400.0,
        'A node that is down is forgotten after this time.', changes='start', minimum=1.5, maximum=1e8),
    ParameterSpec(
        'max_series', 'int', 5000,
        'Different series in the life of the process; those that come later are refused and counted.',
        changes='start', minimum=100, maximum=1000000),
)


@dataclasses.dataclass(frozen=True)
class MetricsSettings:
    """The values of `METRICS_PARAMETERS`, typed and checked together."""

    address: str
    port: int
    nodes: tuple[str, ...]
    stale_ns: int
    forget_ns: int
    max_series: int

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> MetricsSettings:
        """
        Build the settings from parameter values.

        :raises RosInterfaceError: one line that names the parameter and what was expected.
        """
        require_valid(METRICS_PARAMETERS, values, check_combination)
        return cls(
            address=values['address'], port=values['port'],
            nodes=tuple(pattern for pattern in values['nodes'] if pattern),
            stale_ns=round(values['stale_s'] * 1e9), forget_ns=round(values['forget_s'] * 1e9),
            max_series=values['max_series'])


def check_combination(values: Mapping[str, Any]) -> str:
    """Return why values that are fine one by one are refused together; empty where they are not."""
    if not values['address']:
        return 'address: is empty, expected an address such as 127.0.0.1'
    if not any(values['nodes']):
        return "nodes: names no node, expected patterns such as '*'"
    if values['forget_s'] < values['stale_s']:
        return f'forget_s: {values["forget_s"]:g} is below stale_s ({values["stale_s"]:g})'
    return ''
