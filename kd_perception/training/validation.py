# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Average precision of a detector on labelled images, with counts and bootstrap intervals.

A quick figure for following a training run: AP at IoU 0.5 over all objects of at least 25 px height,
area under the interpolated precision curve at every recall. Not the KITTI protocol: no difficulty
levels, no 40-point sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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


def match_all(detect: Callable[[np.ndarray], Detections], images: Sequence,
              labels: Sequence[str]) -> dict[str, ClassMatches]:
    """
    Run a detector on labelled images and match every class.

    :param detect: (H, W, 3) uint8 BGR -> detections down to a low score.
    :param images: `datasets.LabelledImage`.
    """
    detections = [detect(image.read()) for image in images]
    truth = [image.objects for image in images]
    return {name: match_class(name, i, truth, detections) for i, name in enumerate(labels)}


def report(matches: Mapping[str, ClassMatches], intervals: bool = False) -> dict[str, dict[str, object]]:
    """Return label -> ap50 (0 to 1, None without objects), objects, images with any, and interval95."""
    entries = {}
    for name, found in matches.items():
        entry: dict[str, object] = {'ap50': _number(found.average_precision()), 'objects': int(found.objects.sum()),
                                    'images': int((found.objects > 0).sum())}
        if intervals:
            entry['interval95'] = [_number(value) for value in found.interval()]
        entries[name] = entry
    return entries


def summary(entries: Mapping[str, Mapping[str, object]]) -> str:
    """Return one line: AP at IoU 0.5 and number of objects for each class."""
    return ', '.join(f'{name} {"-" if e["ap50"] is None else format(e["ap50"], ".3f")} ({e["objects"]})'
                     for name, e in entries.items())


def best_threshold(matches: Iterable[ClassMatches]) -> tuple[float, float]:
    """(score, F1) of the threshold with the best F1 over all classes together; (nan, 0) without hits."""
    matches = list(matches)
    scores = np.concatenate([found.scores for found in matches])
    order = np.argsort(-scores, kind='stable')
    true = np.cumsum(np.concatenate([found.hits for found in matches])[order])
    if not len(true) or true[-1] == 0:
        return float('nan'), 0.0
    objects = sum(int(found.objects.sum()) for found in matches)
    f1 = 2 * true / (np.arange(1, len(true) + 1) + objects)
    best = int(np.argmax(f1))
    return float(scores[order][best]), float(f1[best])


def _number(value: float) -> float | None:
    """Round for a report; JSON knows no nan."""
    return round(value, 4) if np.isfinite(value) else None
