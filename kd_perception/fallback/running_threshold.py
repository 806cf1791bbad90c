# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
A threshold that follows the scores of a camera, so that a share of its frames reaches it.

A fixed threshold is a share of the frames that the scorer was fitted on. On another road nearly all frames
may reach it, and then the token bucket, not the score, decides which are sent: whichever comes first.
"""

from __future__ import annotations

from collections import deque
import dataclasses
import math

import numpy as np

from kd_perception.fallback.gate import GateSettings

LEAVE_SHARE = 1.25


class RunningThreshold:
    """
    The quantile of the last scores of one camera. Not thread-safe; memory: `window` numbers.

    :param share: of the frames that should reach the threshold, in [0, 1].
    :param prior: the threshold until enough scores are known, in the scorer's units.
    :param window: how many scores are remembered; :param least: from how many on they are used.
    :raises ValueError: out of range.
    """

    def __init__(self, share: float, prior: float, window: int = 300, least: int = 20):
        """Start with no scores."""
        if not 0 <= share <= 1 or not math.isfinite(prior):
            raise ValueError('expected a share in [0, 1] and a finite prior')
        if not 1 <= least <= window <= 100_000:
            raise ValueError('expected 1 <= least <= window <= 100000')
        self.share, self.prior, self.least = share, prior, least
        self._scores: deque[float] = deque(maxlen=window)

    def gate(self, settings: GateSettings) -> GateSettings:
        """
        Return a gate's settings with the thresholds of now.

        Frames become clear again below the score that `LEAVE_SHARE` times the share reach; where the settings
        have no hysteresis there is none.
        """
        enter, leave = self._quantiles(self.share, min(1.0, LEAVE_SHARE * self.share))
        leave = min(leave, enter) if settings.leave < settings.enter else enter
        return dataclasses.replace(settings, enter=enter, leave=leave)

    def add(self, score: float) -> None:
        """Remember the score of a frame; one that is not finite is left out."""
        if math.isfinite(score):
            self._scores.append(score)

    def at(self, share: float | None = None) -> float:
        """
        Return the score that the share (None: its own) of the remembered frames reached.

        Of scores that nearly all tie it lies on the tie: then that many more reach it.
        """
        return self._quantiles(self.share if share is None else share)[0]

    def rank(self, score: float) -> float | None:
        """Return the share of the remembered frames that scored higher; None: nothing to compare with."""
        if not self._scores or math.isnan(score):
            return None
        return float(np.mean(np.array(self._scores) > score))

    def price(self, saved: float) -> float:
        """
        Return the least score of a frame that is worth sending now.

        With half of the budget saved, the score that the share of the frames reaches. With less it rises,
        so that something is left for harder ones; with more it falls, and with all saved any frame is
        worth it: what is not spent is lost.

        :param saved: 0 to 1.
        """
        if saved >= 1:
            return -math.inf
        share = self.share ** ((1 - saved) / saved) if saved > 0 else 0.0
        return self._quantiles(share)[0]

    def _quantiles(self, *shares: float) -> list[float]:
        if len(self._scores) < self.least:
            return [self.prior] * len(shares)
        return np.quantile(np.array(self._scores), [1 - share for share in shares]).tolist()
