# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Log a repeated event at most once a period, and say how many were swallowed in between."""

from collections.abc import Callable, Hashable
import threading


class Throttle:
    """
    Decide for each key whether this event may be logged.

    rclpy's own throttle works per call site, so that one camera's flood would hide another camera's first
    fault; this one works per key and counts what it swallows. Thread-safe.

    :param period_ns: least time between two permitted events of one key.
    :param clock: steady clock, nanoseconds.
    """

    def __init__(self, period_ns: int, clock: Callable[[], int]):
        self.period_ns = period_ns
        self._clock = clock
        self._lock = threading.Lock()
        self._state: dict[Hashable, tuple[int, int]] = {}

    def permit(self, key: Hashable) -> int | None:
        """Return None where the event must stay silent, else how many were silent since the last permit."""
        now_ns = self._clock()
        with self._lock:
            last_ns, silent = self._state.get(key, (None, 0))
            if last_ns is not None and 0 <= now_ns - last_ns < self.period_ns:
                self._state[key] = (last_ns, silent + 1)
                return None
            self._state[key] = (now_ns, 0)
            return silent
