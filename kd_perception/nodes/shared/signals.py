# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
What a node's process does at SIGINT and SIGTERM, from its first line to its last. Free of ROS.

Python's own answer to SIGINT is an exception wherever the program happens to be. No node can use that: launch
adds its own SIGINT to that of a terminal or script, and the second one would break off the clean-up that the
first one began; an exception inside of a callback from C ends the process, or is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import signal
import threading
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_OK = 0


class Interruption:
    """
    Lets the first signal raise KeyboardInterrupt, unless it is held; all others do nothing here.

    rclpy adds to each signal, the first and the others, that its context is shut down.
    """

    def __init__(self) -> None:
        """Wait for the first signal."""
        self._held = False

    def hold(self) -> None:
        """Raise nothing from now on: rclpy's part ends the spinning, and nothing breaks off the clean-up."""
        self._held = True

    def __call__(self, *_: Any) -> None:
        """Handle a signal."""
        if not self._held:
            self._held = True
            raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[Interruption]:
    """
    Handle both signals by an Interruption; the handlers of before come back at the end.

    That of `leave_at_once` does not: the node's report is still to be printed, so signals are ignored.
    """
    interruption, before = Interruption(), {}
    if _may_set_handlers():
        before = {number: signal.signal(number, interruption) for number in SIGNALS}
    try:
        yield interruption
    finally:
        interruption.hold()
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if handler is _leave else handler)


def leave_at_once() -> None:
    """End the process at a signal, with exit code 0: while it imports there is nothing to clean up."""
    if _may_set_handlers():
        for number in SIGNALS:
            signal.signal(number, _leave)


def _leave(*_: Any) -> None:
    os._exit(EXIT_OK)


def ignore() -> None:
    """Ignore further signals: for the last moments, when all is cleaned up and the exit code is known."""
    if _may_set_handlers():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _may_set_handlers() -> bool:
    """Tell whether Python lets this thread set handlers: the main thread only; tests run nodes in others."""
    return threading.current_thread() is threading.main_thread()
