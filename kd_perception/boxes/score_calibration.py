# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
What a detector's scores mean, by class: p = sigmoid(a * logit(score) + b), a > 0 (Platt, 1999).

Detectors' scores have scales of their own. A fit makes each the probability of being right, or puts it on
the scale of another detector, so that one list may hold both. The order within a class stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Curve = tuple[float, float]
_EDGE = 1e-4    # a score of 0 or 1 has no logit


def logits_of(scores: np.ndarray) -> np.ndarray:
    """Return the log-odds of scores, float64, kept finite."""
    inside = np.clip(np.asarray(scores, dtype=np.float64), _EDGE, 1 - _EDGE)
    return np.log(inside / (1 - inside))


def calibrated_scores(scores: np.ndarray, class_ids: np.ndarray, curves: Mapping[str, Curve],
                      labels: Sequence[str]) -> np.ndarray:
    """
    Return scores (N,) after their classes' curves; a class without one keeps its own.

    :param curves: label -> (a, b); class ids index `labels`.
    """
    if not curves:
        return scores
    slope, offset = np.array([curves.get(label, (1.0, 0.0)) for label in labels]).T
    found = 1 / (1 + np.exp(-(logits_of(scores) * slope[class_ids] + offset[class_ids])))
    curved = np.isin(class_ids, [i for i, label in enumerate(labels) if label in curves])
    return np.where(curved, found, scores)


def least_raw_score(threshold: float, curves: Mapping[str, Curve], labels: Sequence[str]) -> float:
    """Return the score before the curves down to which detections may reach a threshold after them."""
    wanted = float(logits_of(np.array(threshold)))
    raw = [1 / (1 + np.exp(-(wanted - b) / a)) for a, b in curves.values()]
    return float(min(raw + [threshold] * (len(curves) < len(labels))))


def onto_scale(own: Mapping[str, Curve], other: Mapping[str, Curve]) -> dict[str, Curve]:
    """
    Return the curves that put a detector's scores on the scale of another's.

    :param own, other: label -> curve from score to probability, of both; classes of both are taken.
    """
    return {label: (a / other[label][0], (b - other[label][1]) / other[label][0])
            for label, (a, b) in own.items() if label in other}
