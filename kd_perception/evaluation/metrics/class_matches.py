# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Which detections of one class are right, on labelled images, in a form that figures are computed
from.

Matching is the KITTI evaluator's. Average precision is the whole area under the interpolated
precision curve: it stays readable with a handful of objects, where R40 is low even for a perfect
detector.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from kd_perception.evaluation.metrics.bootstrap import percentile_interval
from kd_perception.evaluation.metrics.kitti_eval import (
    ClassProtocol,
    Difficulty,
    KITTI_DIFFICULTIES,
    KittiEvaluator,
)
from kd_perception.evaluation.metrics.matching import VALID

MIN_HEIGHT_PX = 25.0
IOU = 0.5
ANY_OBJECT = Difficulty('any', MIN_HEIGHT_PX, 3, 1.0)
_MODERATE = KITTI_DIFFICULTIES[1]
_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class ClassMatches:
    """
    One class on F images: scores (N,), hits (N,) bool, the image of each (N,), and objects (F,).

    Detections that count neither way are left out. `kitti_r40` is the official AP R40 [%] at
    moderate difficulty and the official IoU, None for a class that is never detected;
    `kitti_objects` its count.
    """

    scores: np.ndarray
    hits: np.ndarray
    images: np.ndarray
    objects: np.ndarray
    kitti_r40: float | None = None
    kitti_objects: int = 0

    def average_precision(self, images: np.ndarray | None = None) -> float:
        """AP in [0, 1] over all images, or over a multiset of image indices; nan without objects."""
        if images is None:
            scores, hits, total = self.scores, self.hits, self.objects.sum()
        else:
            times = np.bincount(images, minlength=len(self.objects))
            repeat = times[self.images]
            scores, hits = np.repeat(self.scores, repeat), np.repeat(self.hits, repeat)
            total = (self.objects * times).sum()
        if total == 0:
            return float('nan')
        hits = hits[np.argsort(-scores, kind='stable')]
        true = np.cumsum(hits)
        precision = true / np.arange(1, len(hits) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        return float((envelope * hits).sum() / total)

    def interval(self, seed: int = 0) -> tuple[float, float] | None:
        """Percentile bootstrap over images, 95 %; None where too few resamples hold an object."""
        rng = np.random.default_rng(seed)
        count = len(self.objects)
        return percentile_interval(np.array(
            [self.average_precision(rng.integers(0, count, count)) for _ in range(_RESAMPLES)]))


def match_class(evaluator: KittiEvaluator, protocol: ClassProtocol, difficulty: Difficulty = ANY_OBJECT
                ) -> ClassMatches:
    """
    Match one class on all images: each object takes the highest-scoring detection over the IoU.

    :param difficulty: the objects that count; those of 25 px and more by default.
    """
    at_half = dataclasses.replace(protocol, min_iou=IOU)
    matcher = evaluator.matcher(at_half, difficulty)
    found = matcher.match_by_score()
    truth_valid = evaluator.truth_state(at_half, difficulty) == VALID
    detection_valid = evaluator.detection_state(at_half, difficulty) == VALID
    frames = evaluator.detections.frame_ids
    # One row more, for objects that no detection matches.
    hit = np.zeros(len(frames) + 1, bool)
    assigned = np.zeros(len(frames) + 1, bool)
    assigned[found] = True
    hit[found[truth_valid[matcher.truth_rows]]] = True
    hit, assigned = hit[:-1] & detection_valid, assigned[:-1]
    alarm = detection_valid & ~assigned & ~evaluator.in_region(at_half)
    kept = hit | alarm
    objects = np.bincount(evaluator.labels.frame_ids[truth_valid], minlength=len(evaluator.labels.frames))
    official = evaluator.evaluate(protocol, _MODERATE)
    return ClassMatches(evaluator.detections.scores[kept], hit[kept], frames[kept], objects,
                        official.ap_r40, official.valid_ground_truths)
