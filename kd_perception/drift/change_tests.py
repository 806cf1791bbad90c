# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Tests with known false-alarm rates: population stability index, Kolmogorov-Smirnov and CUSUM.

A sample of n values is compared with a reference of m; both are numbers of *independent* values, since
frames of a video are not: whoever calls has divided by how much they are correlated.
"""

from __future__ import annotations

import dataclasses
import math
from statistics import NormalDist

import numpy as np

# What a CUSUM is tuned to find soonest: odds grown by so much.
_ODDS = 4.0


def ks_statistic(shares: np.ndarray, reference: np.ndarray) -> float:
    """Return the greatest distance of two cumulative distributions at the edges of their bins (B,)."""
    return float(np.abs(np.cumsum(shares - reference)[:-1]).max())


def ks_threshold(alpha: float, n: float, m: float) -> float:
    """
    Return the distance that is reached with probability `alpha` at most.

    The bound of Dvoretzky, Kiefer and Wolfowitz with Massart's constant (Annals of Probability 18, 1990): it
    holds for every n, and for histograms, whose distance is never greater. The reference's own error adds.
    """
    return math.sqrt(math.log(2 / alpha) / 2 * (1 / n + 1 / m))


def psi_statistic(shares: np.ndarray, reference: np.ndarray, n: float, m: float) -> float:
    """
    Return the population stability index of two histograms (B,): the sum of (p - q) ln(p / q).

    Half a sample is added to every bin of either (Jeffreys' prior), so that an empty bin costs what it is
    worth for n and m samples, and not infinitely much.
    """
    p, q = _smoothed(shares, n), _smoothed(reference, m)
    return float(((p - q) * np.log(p / q)).sum())


def psi_threshold(alpha: float, n: float, m: float, bins: int) -> float:
    """
    Return the index that is reached with probability `alpha` at most.

    It is distributed as (1 / n + 1 / m) times chi-squared with bins - 1 degrees of freedom (Yurdakul and
    Naranjo, Journal of Risk Model Validation 14, 2020); the textbook's 0.1 and 0.25 know neither n nor m.
    """
    return chi_squared_quantile(1 - alpha, bins - 1) * (1 / n + 1 / m)


def chi_squared_quantile(probability: float, degrees: int) -> float:
    """Return the quantile, by Wilson and Hilferty (PNAS 17, 1931): within 3 %, and 1 % from 4 degrees on."""
    z = NormalDist().inv_cdf(probability)
    a = 2 / (9 * degrees)
    return degrees * max(0.0, 1 - a + z * math.sqrt(a)) ** 3


def wilson_interval(share: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """
    Return an interval of a probability (Wilson, JASA 22, 1927).

    :param share: observed, in [0, 1]. :param n: independent trials, may be a fraction; 0: nothing is known.
    """
    if n <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def cluster_trials(hits: np.ndarray, totals: np.ndarray) -> float:
    """
    Return how many independent trials the pooled share of correlated ones is worth.

    Boxes of a frame are found or missed together; the variance between frames says how far (ratio
    estimator; Kish, Survey Sampling, 1965). Never more than there are trials, and with a share of 0 or 1,
    where no variance is seen, no more than there are frames.

    :param hits, totals: (F,) of each frame.
    """
    totals = np.asarray(totals, dtype=np.float64)
    trials, frames = totals.sum(), np.count_nonzero(totals)
    if frames < 2:
        return float(frames)
    share = np.sum(hits) / trials
    between = ((hits - share * totals) ** 2).sum() * frames / (frames - 1)
    if not 0 < share < 1 or between <= 0:
        return float(min(frames, trials))
    return float(min(trials, share * (1 - share) * trials ** 2 / between))


@dataclasses.dataclass
class Cusum:
    """
    Page's cumulative sum for a share that has become greater (Page, Biometrika 41, 1954).

    Adds log-likelihood ratios of `p1` against `p0`, never below 0. The mean time between false alarms is at
    least exp(threshold) independent observations (Lorden, Annals of Mathematical Statistics 42, 1971), for
    shares in [0, 1] as for bits. An observation that says the same as its neighbours counts for
    1 / correlated of one: the likelihood ratio of a whole run of them is then that of one.

    :param p0: share where nothing has changed; :param p1: share to find soon, above p0.
    :param correlated: observations that say the same.
    :param threshold: see `cusum_threshold`.
    """

    p0: float
    p1: float
    correlated: float
    threshold: float
    value: float = 0.0

    def __post_init__(self):
        """Check ranges; prepare the two likelihood ratios."""
        if not 0 < self.p0 < self.p1 < 1 or self.correlated < 1 or self.threshold <= 0:
            raise ValueError('expected 0 < p0 < p1 < 1, correlated at least 1, a positive threshold')
        self._hit = math.log(self.p1 / self.p0) / self.correlated
        self._miss = math.log((1 - self.p1) / (1 - self.p0)) / self.correlated

    def add(self, share: float) -> bool:
        """
        Take an observation in [0, 1]; return whether the threshold is reached.

        The sum stops there, so that it comes down again in the time that it took to rise.
        """
        step = share * self._hit + (1 - share) * self._miss
        self.value = min(self.threshold, max(0.0, self.value + step))
        return self.value >= self.threshold


def cusum_threshold(observations: float, correlated: float) -> float:
    """Return the threshold for at most one false alarm in so many observations, on average."""
    return math.log(max(math.e, observations / correlated))


def greater_share(share: float) -> float:
    """Return the share to find soon: four times the odds."""
    return _ODDS * share / (1 - share + _ODDS * share)


def _smoothed(shares: np.ndarray, n: float) -> np.ndarray:
    return (n * shares + 0.5) / (n + 0.5 * len(shares))
