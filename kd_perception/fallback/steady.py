# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Elapsed time that never runs backwards, out of a clock that might."""

from __future__ import annotations


class SteadyTime:
    """
    Turn the readings of a caller's clock (ns) into elapsed time (ns) that never decreases.

    A step backwards counts as no time at all, so that what was left of a deadline before the step is
    left after it. A step forwards is taken as time that passed: deadlines then come early, never late.
    """

    def __init__(self):
        """Start at 0 with the first reading."""
        self._last_ns: int | None = None
        self._elapsed_ns = 0

    def advance(self, now_ns: int) -> int:
        """Take a reading of the clock; return the elapsed time."""
        if self._last_ns is not None and now_ns > self._last_ns:
            self._elapsed_ns += now_ns - self._last_ns
        self._last_ns = now_ns
        return self._elapsed_ns

    def reading_at(self, elapsed_ns: int) -> int:
        """Return what the caller's clock will show at that elapsed time, if it does not step."""
        return elapsed_ns if self._last_ns is None else self._last_ns + elapsed_ns - self._elapsed_ns
