# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM at any moment: one line, an exit code, whole files; and none that gets lost."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import signal
import sys
import threading
import time
from typing import Any

END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Files are put in order within this time; a second Ctrl-C in it would only disturb that.
_CLEAN_UP_S = 3.0
# An exception that got lost in a callback is raised again after so long.
_AGAIN_S = 0.05


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: whoever cleans up after Ctrl-C does so after these too."""


def exit_code(number: int) -> int:
    """Return what a shell shows for a process that this signal ended: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + number


def word_for(number: int) -> str:
    """Return how to call what a signal did."""
    return 'interrupted' if number == signal.SIGINT else 'terminated'


def end_at_once(prog: str = 'kd_perception') -> None:
    """
    From now on a signal ends the process with one line: for the time before a command has opened anything.

    An exception would come out of an import as a traceback, or not at all.
    """
    def end(number: int, frame: Any) -> None:
        os.write(2, f'{prog}: {word_for(number)}\n'.encode())
        os._exit(exit_code(number))

    for number in END_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:    # nohup
            signal.signal(number, end)


def end_quietly() -> None:
    """From now on a signal changes nothing: the command is done, and Python puts itself away."""
    for number in END_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def raised_signals() -> Iterator[list[int]]:
    """
    Raise KeyboardInterrupt at SIGINT and `Terminated` at SIGTERM and SIGHUP.

    Once: while files are then put in order, another signal is noted only. Yields the list of signals that
    have come. Outside the main thread signals stay as they are.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    last_s = [-_CLEAN_UP_S]

    def interrupt(number: int, frame: Any) -> None:
        received.append(number)
        if time.monotonic() - last_s[0] < _CLEAN_UP_S:
            return
        last_s[0] = time.monotonic()
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def unraisable(problem: Any) -> None:
        if not isinstance(problem.exc_value, KeyboardInterrupt):
            before_hook(problem)
            return
        # It was raised in a destructor or a callback, where Python drops it.
        last_s[0] = -_CLEAN_UP_S
        number = received[-1] if received else signal.SIGINT
        again = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    before_hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = {number: signal.signal(number, interrupt) for number in END_SIGNALS
              if signal.getsignal(number) not in (signal.SIG_IGN, None)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = before_hook


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
