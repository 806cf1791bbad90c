# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Ctrl-C that does not get lost."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import signal
import threading
from typing import Any


@contextlib.contextmanager
def remembered_interrupts(*signals: signal.Signals) -> Iterator[threading.Event]:
    """
    Raise KeyboardInterrupt at a signal, and remember it.

    An exception that is raised while a callback from C runs (rclpy's, a destructor) can get lost there: who
    spins asks the event too.

    :param signals: SIGINT, SIGTERM; the handlers of before come back at the end.
    """
    interrupted = threading.Event()

    def interrupt(*_: Any) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
