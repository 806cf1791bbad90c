# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""How good each member of a committee is, and all of them together; and what their scores mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.boxes.score_calibration import logits_of
from kd_perception.evaluation.metrics.class_matches import ClassMatches, IOU, match_class
from kd_perception.evaluation.metrics.kitti_eval import (
    ClassProtocol,
    Difficulty,
    KITTI_CLASSES,
    KittiEvaluator,
)
from kd_perception.labels.kitti_text import KittiObjects
from kd_perception.labels.object_table import ObjectTable

# Box heights in px of the image. Detections a quarter outside still count, as in the Caltech
# toolbox.
HEIGHTS_PX = ((25.0, float('inf')), (15.0, 25.0), (25.0, 50.0), (50.0, 100.0), (100.0, float('inf')))
_SLACK = 1.25
_ROUNDS = 50
_PULL = 1.0     # of the fit towards leaving scores as they are: a few objects must not turn a curve round
_LEAST_HITS = 10


def match_heights(truths: Sequence[KittiObjects], found: Sequence[Detections], labels: Sequence[str],
                  heights: Sequence[tuple[float, float]] = HEIGHTS_PX
                  ) -> dict[str, list[ClassMatches]]:
    """
    Match detections with labels at IoU 0.5; by label, one entry for each range of heights.

    :param truths, found: of the same images; class ids index `labels`.
    """
    table = ObjectTable.from_objects([KittiObjects.from_boxes(
        [labels[i] for i in each.class_ids], each.boxes_xyxy, each.scores) for each in found])
    evaluator = KittiEvaluator(ObjectTable.from_objects(list(truths)), table, IOU)
    known = {protocol.name: protocol for protocol in KITTI_CLASSES}
    # The detector's own limit is not to hide what is lower than a band's floor by a rounding.
    bands = [Difficulty(f'{low:g}', low, 3, 1.0, high, 1.0 if high == float('inf') and low == 25 else _SLACK)
             for low, high in heights]
    protocols = {label: known.get(label, ClassProtocol(label, IOU)) for label in labels}
    return {label: [match_class(evaluator, protocol, band) for band in bands]
            for label, protocol in protocols.items()}


def operating_point(matches: ClassMatches, score: float) -> dict[str, Any]:
    """Return precision and recall of the detections from a score on; None where nothing can be said."""
    chosen = matches.scores >= score
    hits, objects = int(matches.hits[chosen].sum()), int(matches.objects.sum())
    return {'score': round(float(score), 4), 'objects': objects, 'detections': int(chosen.sum()),
            'precision': round(hits / int(chosen.sum()), 4) if chosen.any() else None,
            'recall': round(hits / objects, 4) if objects else None}


def best_score(matches: ClassMatches) -> float:
    """Return the score of the best F1; 1 where nothing is right."""
    order = np.argsort(-matches.scores, kind='stable')
    true = np.cumsum(matches.hits[order])
    if not len(true) or not true[-1]:
        return 1.0
    f1 = 2 * true / (np.arange(1, len(true) + 1) + int(matches.objects.sum()))
    return float(matches.scores[order][int(f1.argmax())])


def report_rows(name: str, matches: Mapping[str, Sequence[ClassMatches]], knows: Mapping[str, bool],
                heights: Sequence[tuple[float, float]] = HEIGHTS_PX) -> list[dict[str, Any]]:
    """
    Return rows of AP, precision and recall, at the score of the best F1 over all heights.

    :param knows: label -> whether this detector tells of it.
    """
    rows = []
    for label, bands in matches.items():
        if not knows[label]:
            continue
        score = best_score(bands[0])
        for (low, high), band in zip(heights, bands):
            if not band.objects.sum():
                continue
            rows.append({'detector': name, 'label': label,
                         'height_px': [low, None if high == float('inf') else high],
                         'ap50': round(band.average_precision(), 4), **operating_point(band, score)})
    return rows


def fit_calibration(matches: ClassMatches) -> tuple[float, float] | None:
    """
    Fit p = sigmoid(a * logit(score) + b) to which detections were right; None for too few.

    Platt, 'Probabilistic outputs for support vector machines', 1999, by Newton's method, with a
    quadratic pull towards a = 1, b = 0.
    """
    hits = matches.hits.astype(np.float64)
    if hits.sum() < _LEAST_HITS:
        return None
    design = np.stack([logits_of(matches.scores), np.ones(len(hits))], axis=1)
    prior = np.array([1.0, 0.0])
    values = prior.copy()
    for _ in range(_ROUNDS):
        p = 1 / (1 + np.exp(-design @ values))
        gradient = design.T @ (p - hits) + _PULL * (values - prior)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + _PULL * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        values = values - step
        if np.abs(step).max() < 1e-9:
            break
    return round(max(float(values[0]), 0.05), 4), round(float(values[1]), 4)
