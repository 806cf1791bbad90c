# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
metrics_node: what the nodes say on /diagnostics, for Prometheus. See docs/reference/metrics.md.

A plain node, not a lifecycle node: it holds no device and no model, and an exporter that waits to be
activated would keep silent about a start that fails.
"""

from __future__ import annotations

if __name__ == '__main__':
    from kd_perception.nodes.shared import signals
    signals.leave_at_once()     # before the imports below, which take a second

from collections.abc import Callable
import sys
import time
from typing import Any

from rclpy.node import Node

from kd_perception.monitoring.board import DiagnosticsBoard
from kd_perception.monitoring.metrics import MetricsExporter
from kd_perception.nodes.metrics.endpoint import MetricsEndpoint
from kd_perception.nodes.metrics.parameters import check_combination, METRICS_PARAMETERS, MetricsSettings
from kd_perception.nodes.shared import parameters
from kd_perception.nodes.shared.diagnostics import subscribe_diagnostics
from kd_perception.nodes.shared.runtime import run_node


class MetricsNode(Node):
    """
    Keeps the newest diagnostics, and answers scrapes from threads of their own.

    :param clock: steady clock, nanoseconds.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns, **kwargs: Any):
        """Declare parameters, subscribe, open the endpoint."""
        super().__init__('metrics', **kwargs)
        self.settings = MetricsSettings.from_values(parameters.declare_parameters(self, METRICS_PARAMETERS))
        settings = self.settings
        board = DiagnosticsBoard(clock, settings.stale_ns, settings.forget_ns, settings.nodes)
        self.exporter = MetricsExporter(board, settings.max_series)
        self.endpoint = MetricsEndpoint(settings.address, settings.port, self.exporter.families)
        subscribe_diagnostics(self, self.exporter.hear, board.refuse)
        parameters.guard_changes(self, METRICS_PARAMETERS, lambda: False, check_combination, lambda _: None)
        self.get_logger().info(f'metrics on http://{settings.address}:{self.endpoint.port}/metrics')

    def close(self) -> None:
        """Stop listening."""
        self.endpoint.close()


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to end."""
    return run_node(MetricsNode, args)


if __name__ == '__main__':
    exit_code = main()
    signals.ignore()
    sys.exit(exit_code)
