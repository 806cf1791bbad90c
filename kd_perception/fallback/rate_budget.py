# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Token buckets that bound how many frames go to the teacher.

Tokens are counted in whole billionths, so that ten frames at a share of 0.1 earn exactly one token: sums of
floats would fall short of it, and the bound would hold only nearly.
"""

from __future__ import annotations

import math

from kd_perception.fallback.steady import SteadyTime

TOKEN = 1_000_000_000


class ShareBucket:
    """
    At most `share` of the frames, plus a burst.

    Of any n consecutive frames at most `share * n + burst` pass.

    :param share: 0 (none) to 1 (all).
    :param burst: tokens that can be saved up, at least 1; the bucket starts full.
    """

    def __init__(self, share: float, burst: float = 1.0):
        """Start with a full bucket."""
        self._level = 0
        self.configure(share, burst)
        # A share of nothing must not send even the first frame.
        self._level = self._capacity if self._gain else 0

    def configure(self, share: float, burst: float) -> None:
        """
        Change the budget while frames flow; what was saved up stays, as far as it fits.

        :raises ValueError: out of range.
        """
        if not 0 <= share <= 1:
            raise ValueError(f'share is {share:g}, expected 0 to 1')
        self._capacity = _capacity(burst)
        self._gain = round(share * TOKEN)
        self._level = min(self._level, self._capacity) if self._gain else 0

    def frame(self) -> None:
        """Count a frame, whether or not it wants to pass."""
        self._level = min(self._capacity, self._level + self._gain)

    def has_token(self) -> bool:
        """Return whether a frame may pass."""
        return self._level >= TOKEN

    def spend(self) -> None:
        """Let a frame pass."""
        self._level -= TOKEN

    @property
    def fill(self) -> float:
        """How much of what can be saved is saved, 0 to 1; 1: the next frame could not earn in full."""
        if not self._gain:
            return 0.0
        return min(1.0, self._level / max(self._capacity - self._gain, TOKEN))

    @property
    def tokens(self) -> float:
        """Frames that could pass now."""
        return self._level / TOKEN


class RateBucket:
    """
    At most `rate_hz` frames a second, plus a burst; may be shared by the gates of several cameras.

    In any t seconds at most `rate_hz * t + burst` frames pass.

    :param rate_hz: None: no bound.
    :param burst: tokens that can be saved up, at least 1; the bucket starts full.
    """

    def __init__(self, rate_hz: float | None, burst: float = 1.0):
        """Start with a full bucket."""
        self._time = SteadyTime()
        self._earned_until_ns = 0
        self._level = 0
        self.configure(rate_hz, burst)
        self._level = self._capacity if self._rate_hz != 0 else 0

    def configure(self, rate_hz: float | None, burst: float) -> None:
        """
        Change the budget while frames flow; what was saved up stays, as far as it fits.

        :raises ValueError: out of range.
        """
        if rate_hz is not None and not (math.isfinite(rate_hz) and rate_hz >= 0):
            raise ValueError(f'rate_hz is {rate_hz:g}, expected none or a number not below 0')
        self._capacity = _capacity(burst)
        self._rate_hz = rate_hz
        self._level = min(self._level, self._capacity) if rate_hz != 0 else 0

    def advance(self, now_ns: int) -> None:
        """Earn what the time since the last call is worth; a clock that steps back earns nothing."""
        elapsed_ns = self._time.advance(now_ns)
        gain = int((elapsed_ns - self._earned_until_ns) * (self._rate_hz or 0.0))
        self._earned_until_ns = elapsed_ns
        self._level = min(self._capacity, self._level + gain)

    def has_token(self) -> bool:
        """Return whether a frame may pass."""
        return self._rate_hz is None or self._level >= TOKEN

    def spend(self) -> None:
        """Let a frame pass."""
        if self._rate_hz is not None:
            self._level -= TOKEN

    @property
    def tokens(self) -> float:
        """Frames that could pass now; infinite without a bound."""
        return math.inf if self._rate_hz is None else self._level / TOKEN


def _capacity(burst: float) -> int:
    # Below one token nothing could ever pass.
    if not (math.isfinite(burst) and 1 <= burst <= 1000):
        raise ValueError(f'burst is {burst:g}, expected 1 to 1000 frames')
    return round(burst * TOKEN)
