# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""When a recorded moment is due. Free of ROS; the clock is injected."""

from __future__ import annotations

from collections.abc import Callable


class Pacer:
    """
    Maps recorded time to the steady clock.

    :param rate: recorded seconds a second; 0: everything is due at once.
    :param clock: steady clock, nanoseconds.
    """

    def __init__(self, rate: float, clock: Callable[[], int]):
        """Begin without an anchor; the first moment that is asked for is due at once."""
        self._rate, self._clock = rate, clock
        self._anchor: tuple[int, int] | None = None  # (recorded, steady)
        self._last_ns = 0

    def restart(self) -> None:
        """Forget the anchor: the next moment is due at once (begin of a loop)."""
        self._anchor = None

    def set_rate(self, rate: float) -> None:
        """Change the speed from now on, without a jump."""
        if self._anchor is not None:
            self._anchor = (self.recorded_now_ns(), self._clock())
        self._rate = rate

    def due_in_ns(self, recorded_ns: int) -> int:
        """Return how long to wait for a recorded moment; 0 or less when it is due."""
        if self._anchor is None:
            self._anchor = (recorded_ns, self._clock())
        if not self._rate:
            return 0
        recorded, steady = self._anchor
        return round((recorded_ns - recorded) / self._rate) - (self._clock() - steady)

    def reached(self, recorded_ns: int) -> None:
        """Note the moment that was last played: unpaced time stands there."""
        self._last_ns = recorded_ns

    def recorded_now_ns(self) -> int:
        """Return the recorded time of this instant."""
        if self._anchor is None or not self._rate:
            return self._last_ns
        recorded, steady = self._anchor
        return recorded + round((self._clock() - steady) * self._rate)
