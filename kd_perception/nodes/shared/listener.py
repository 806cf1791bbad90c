# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A process that listens to /diagnostics for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import time

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from kd_perception.monitoring.board import DiagnosticsBoard
from kd_perception.nodes.shared.diagnostics import subscribe_diagnostics
from kd_perception.processes.interrupts import remembered_interrupts


@contextlib.contextmanager
def listening(board: DiagnosticsBoard) -> Iterator[tuple[Callable, Callable]]:
    """
    Listen to /diagnostics.

    Yields spin(seconds, condition), which returns whether the condition came true in that time, and
    publishers(), the fully qualified nodes that publish there.
    """
    # Ctrl-C stays Python's: it ends a wait at once.
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(f'kd_perception_status_{os.getpid()}', start_parameter_services=False,
                             enable_rosout=False)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    subscribe_diagnostics(node, board.hear, board.refuse)

    def spin(seconds: float, condition: Callable[[], bool]) -> bool:
        end = time.monotonic() + seconds
        while not condition():
            if interrupted.is_set():
                raise KeyboardInterrupt
            left_s = end - time.monotonic()
            if left_s <= 0:
                return False
            executor.spin_once(timeout_sec=min(left_s, 0.2))
        return True

    def publishers() -> set[str]:
        found = node.get_publishers_info_by_topic('/diagnostics')
        return {f'{info.node_namespace.rstrip("/")}/{info.node_name}' for info in found
                if not info.node_name.startswith('_')}

    try:
        with remembered_interrupts(signal.SIGINT) as interrupted:
            yield spin, publishers
    finally:
        executor.shutdown(timeout_sec=1.0)
        node.destroy_node()
        rclpy.try_shutdown()
