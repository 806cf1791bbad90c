# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The one thread that runs the model, fed by a mailbox. Free of ROS."""

from __future__ import annotations

from collections.abc import Callable, Hashable
import threading
from typing import Any

from kd_perception.nodes.detector.mailbox import Mailbox


class Worker:
    """
    Takes frames out of a mailbox and processes them one after another.

    :param process: called with (camera, frame).
    :param on_error: called with (camera, error) for anything that `process` let out; the thread goes
        on, since one bad frame must not end the service for all cameras.
    """

    def __init__(self, mailbox: Mailbox, process: Callable[[Hashable, Any], None],
                 on_error: Callable[[Hashable, Exception], None]):
        """Create the thread; `start` starts it."""
        self._mailbox = mailbox
        self._process = process
        self._on_error = on_error
        # A daemon: a hung inference must not keep a process alive that was told to end.
        self._thread = threading.Thread(target=self._run, name='kd_perception_worker', daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> tuple[list[tuple[Hashable, Any]], bool]:
        """
        Close the mailbox and wait for the frame in work.

        :return: frames that were not processed, and whether the thread has ended.
        """
        left = self._mailbox.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return left, not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            taken = self._mailbox.take()
            if taken is None:
                return
            camera, frame = taken
            try:
                self._process(camera, frame)
            except Exception as error:  # the last line of defence; expected errors are handled in `process`
                self._on_error(camera, error)
            # Do not keep the last image alive while waiting for the next.
            del taken, frame
