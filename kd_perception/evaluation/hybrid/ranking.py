# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
How well a score ranks frames: ROC area, and the curves of selective prediction.

A gate that keeps the c most trusted frames for the student *covers* them; the student's mean loss on them
is its *risk* at that coverage (Geifman and El-Yaniv, NeurIPS 2017; excess area: Geifman et al., ICLR 2019).
Frames of equal score are taken in random order, in expectation: no result depends on the order of the input.
"""

from __future__ import annotations

import dataclasses

import numpy as np


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """
    Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    :param scores: (N,), :param positive: (N,) bool.
    :return: in [0, 1]; NaN with no positive or no negative.
    """
    scores, positive = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    _check(scores, positive)
    count = int(positive.sum())
    others = len(scores) - count
    if not count or not others:
        return float('nan')
    _, inverse, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    middle_rank = (np.cumsum(sizes) - (sizes - 1) / 2)[inverse.reshape(-1)]
    return float((middle_rank[positive].sum() - count * (count + 1) / 2) / (count * others))


@dataclasses.dataclass(frozen=True)
class RiskCoverage:
    """
    Risk by coverage for one ranking of N frames.

    :param coverage: (N,) 1/N, 2/N ... 1, the most trusted frames first.
    :param risk: (N,) expected mean loss of the frames covered.
    :param area: AURC, the mean of `risk`.
    :param best_area: that of the ideal ranking, by the loss itself.
    :param random_area: that of a random ranking, the mean loss.
    """

    coverage: np.ndarray
    risk: np.ndarray
    area: float
    best_area: float
    random_area: float

    @property
    def excess_area(self) -> float:
        """E-AURC: what the ranking loses to the ideal one; 0 is ideal."""
        return self.area - self.best_area

    @property
    def skill(self) -> float:
        """1 for the ideal ranking, 0 for a random one, below 0 for worse; NaN where all losses are equal."""
        span = self.random_area - self.best_area
        return (self.random_area - self.area) / span if span > 0 else float('nan')


def risk_coverage(ambiguity: np.ndarray, loss: np.ndarray) -> RiskCoverage:
    """
    Return the curve of a ranking.

    :param ambiguity: (N,) scores; low is trusted.
    :param loss: (N,) loss of the student on each frame, any sign and unit.
    :raises ValueError: nothing to rank, shapes differ, or a value is not finite.
    """
    ambiguity, loss = np.asarray(ambiguity, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    _check(ambiguity, loss)
    if not len(loss):
        raise ValueError('expected at least one frame')
    risk = _risk(ambiguity, loss)
    count = len(loss)
    return RiskCoverage(np.arange(1, count + 1) / count, risk, float(risk.mean()),
                        float(_risk(loss, loss).mean()), float(loss.mean()))


def _risk(ambiguity: np.ndarray, loss: np.ndarray) -> np.ndarray:
    _, inverse, sizes = np.unique(ambiguity, return_inverse=True, return_counts=True)
    mean_in_group = np.bincount(inverse.reshape(-1), weights=loss) / sizes
    covered = np.arange(1, len(loss) + 1)
    return np.cumsum(np.repeat(mean_in_group, sizes)) / covered


def _check(scores: np.ndarray, other: np.ndarray) -> None:
    if scores.ndim != 1 or scores.shape != other.shape:
        raise ValueError(f'expected two vectors of one length, got {scores.shape} and {other.shape}')
    if not (np.isfinite(scores).all() and np.isfinite(other).all()):
        raise ValueError('expected finite values')
