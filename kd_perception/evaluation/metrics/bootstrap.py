# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Bootstrap 95 % intervals (percentile method; Efron and Tibshirani 1993), by frame or by scene group."""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PERCENTILES = (2.5, 97.5)
_AT_ONCE = 64


def resampled_weights(groups: int, count: int, seed: int) -> np.ndarray:
    """Return (count, groups) float32: how often each group is drawn in each of ``count`` resamples."""
    rng = np.random.default_rng(seed)
    weights = np.empty((count, groups), dtype=np.float32)
    for i in range(count):
        weights[i] = np.bincount(rng.integers(0, groups, groups), minlength=groups)
    return weights


def percentile_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Return the 95 % interval of resampled figures, None where not two are finite."""
    finite = values[np.isfinite(values)]
    if len(finite) < 2:
        return None
    low, high = np.percentile(finite, PERCENTILES)
    return float(low), float(high)


@dataclass(frozen=True)
class BootstrapCurve:
    """
    Counts of one class and difficulty at T falling score thresholds in G groups of frames.

    :ivar thresholds: (T,) float64, the official ones among them.
    :ivar true_positives, false_positives: (T, G) float32.
    :ivar valid_truths: (G,) int64.
    :ivar hit_scores: (H,) float64: scores of true positives, in the pass that collects thresholds.
    :ivar hit_groups: (H,) int64: their groups.
    :ivar official_thresholds: (up to 41,) of the whole set.
    """

    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    valid_truths: np.ndarray
    hit_scores: np.ndarray
    hit_groups: np.ndarray
    official_thresholds: np.ndarray

    def resampled(self, count: int, seed: int,
                  recall_indices: Callable[[int, int], np.ndarray]) -> np.ndarray | None:
        """
        Return AP R40 [%] of each resample, (count,); None with fewer than two groups or no ground truth.

        Each resample gets its own recall thresholds from its own true positives, by the official rule.
        Counts between two thresholds that were counted are interpolated by rank; with no more distinct
        scores than thresholds counted there is nothing to interpolate, and the resample's AP is exact.
        """
        groups = len(self.valid_truths)
        if groups < 2 or not self.valid_truths.any():
            return None
        if not len(self.hit_scores):
            return np.zeros(count)  # nothing found, and no resample finds anything
        order = np.argsort(-self.hit_scores, kind='stable')
        scores, owners = self.hit_scores[order], self.hit_groups[order]
        weights = resampled_weights(groups, count, seed)
        values = np.full(count, np.nan)
        rank_of_threshold = np.searchsorted(-scores, -self.thresholds, side='left')
        rank_of_score = np.searchsorted(-scores, -scores, side='left')
        for first in range(0, count, _AT_ONCE):
            some = weights[first:first + _AT_ONCE]
            hits = some @ self.true_positives.T
            alarms = some @ self.false_positives.T
            truths = some @ self.valid_truths
            for i in range(len(some)):
                if truths[i] > 0:
                    reached = np.cumsum(some[i, owners])
                    picks = recall_indices(int(reached[-1]) if len(reached) else 0, int(truths[i]))
                    wanted = rank_of_score[np.searchsorted(reached, picks, side='right')]
                    values[first + i] = _resampled_ap(np.interp(wanted, rank_of_threshold, hits[i]),
                                                      np.interp(wanted, rank_of_threshold, alarms[i]))
        return values


def _resampled_ap(hits: np.ndarray, alarms: np.ndarray) -> float:
    """AP R40 in percent; a threshold where nothing is counted adds nothing."""
    whole = hits + alarms
    raw = np.divide(hits, whole, out=np.zeros(len(hits)), where=whole > 0)
    best = np.maximum.accumulate(raw[::-1])[::-1]
    return float(best[1:].sum() / 40.0 * 100.0)
