# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Average precision of a detector on labelled images, with counts and bootstrap intervals.

A quick figure for following a training run: AP at IoU 0.5 over all objects of at least 25 px height,
area under the interpolated precision curve at every recall. Not the KITTI protocol: no difficulty
levels, no 40-point sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses

import numpy as np

from kd_perception.detection.boxes import box_intersection_over_area, box_iou
from kd_perception.detection.detections import Detections
from kd_perception.evaluation.kitti_labels import KittiObjects

MIN_HEIGHT_PX = 25.0
IOU = 0.5
# A detection on one of these counts neither for nor against the class (KITTI's rule).
_NEIGHBOURS = {'Car': ('Van',), 'Pedestrian': ('Person_sitting',), 'Cyclist': ()}


@dataclasses.dataclass(frozen=True, eq=False)
class ClassMatches:
    """
    One class on F images: scores (N,), hits (N,) bool, the image of each (N,), and objects (F,).

    Detections that count neither way are left out.
    """

    scores: np.ndarray
    hits: np.ndarray
    images: np.ndarray
    objects: np.ndarray

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

    def interval(self, rounds: int = 1000, seed: int = 0) -> tuple[float, float]:
        """Percentile bootstrap over images, 95 %."""
        rng = np.random.default_rng(seed)
        count = len(self.objects)
        values = [self.average_precision(rng.integers(0, count, count)) for _ in range(rounds)]
        finite = [value for value in values if np.isfinite(value)]
        if not finite:
            return float('nan'), float('nan')
        low, high = np.percentile(finite, [2.5, 97.5])
        return float(low), float(high)

    def best_f1(self) -> tuple[float, float]:
        """(score, F1) of the threshold with the best F1; (nan, 0) without hits."""
        order = np.argsort(-self.scores, kind='stable')
        true = np.cumsum(self.hits[order])
        if self.objects.sum() == 0 or not len(true) or true[-1] == 0:
            return float('nan'), 0.0
        f1 = 2 * true / (np.arange(1, len(true) + 1) + self.objects.sum())
        best = int(np.argmax(f1))
        return float(self.scores[order][best]), float(f1[best])


def match_class(name: str, class_id: int, labels: Sequence[KittiObjects],
                detections: Sequence[Detections]) -> ClassMatches:
    """Match one class on all images, greedily in score order, each object once."""
    scores, hits, images, objects = [], [], [], []
    for i, (truth, found) in enumerate(zip(labels, detections)):
        types = np.array(truth.types, dtype=object)
        boxes = truth.boxes_xyxy
        own = types == name
        tall = boxes[:, 3] - boxes[:, 1] >= MIN_HEIGHT_PX
        valid = own & tall
        doubtful = (own & ~tall) | np.isin(types, _NEIGHBOURS.get(name, ()))
        regions = boxes[types == 'DontCare']
        objects.append(int(valid.sum()))
        mine = found.select(found.class_ids == class_id).by_score()
        iou = box_iou(mine.boxes_xyxy.astype(np.float64), boxes)
        free = valid.copy()
        for j in range(len(mine)):
            candidates = np.where(free & (iou[j] > IOU), iou[j], 0)
            if candidates.any():
                free[np.argmax(candidates)] = False
                hit = True
            elif (mine.boxes_xyxy[j, 3] - mine.boxes_xyxy[j, 1] < MIN_HEIGHT_PX
                  or (doubtful & (iou[j] > IOU)).any() or _covered(mine.boxes_xyxy[j], regions)):
                continue
            else:
                hit = False
            scores.append(mine.scores[j])
            hits.append(hit)
            images.append(i)
    return ClassMatches(np.array(scores, np.float64), np.array(hits, bool), np.array(images, np.int64),
                        np.array(objects, np.int64))


def _covered(box: np.ndarray, regions: np.ndarray) -> bool:
    return len(regions) > 0 and bool(
        box_intersection_over_area(box[None].astype(np.float64), regions).max() > IOU)


def evaluate(detect: Callable[[np.ndarray], Detections], images: Sequence, labels: Sequence[str],
             intervals: bool = False) -> dict[str, dict[str, object]]:
    """
    Measure a detector on labelled images.

    :param detect: (H, W, 3) uint8 BGR -> detections down to a low score.
    :param images: `datasets.LabelledImage`.
    :return: label -> ap50, objects, images with any, best_f1, best_f1_score and, on request, interval95.
    """
    detections = [detect(image.read()) for image in images]
    report = {}
    for class_id, name in enumerate(labels):
        matches = match_class(name, class_id, [image.objects for image in images], detections)
        score, f1 = matches.best_f1()
        entry = {'ap50': matches.average_precision(), 'objects': int(matches.objects.sum()),
                 'images': int((matches.objects > 0).sum()), 'best_f1': f1, 'best_f1_score': score}
        if intervals:
            entry['interval95'] = matches.interval()
        report[name] = entry
    return report
