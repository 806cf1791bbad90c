# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Average precision of a detector on labelled images, with counts and bootstrap intervals.

Matching is the project's KITTI evaluator's. Two figures come of it: AP R40, as the official program
samples it, and the whole area under the interpolated precision curve at IoU 0.5 over all objects above
25 px height. The latter stays readable with a handful of objects, where R40 is low even for a perfect
detector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses

import numpy as np

from kd_perception.detection.detections import Detections
from kd_perception.evaluation.metrics.bootstrap import percentile_interval
from kd_perception.evaluation.metrics.kitti_eval import (
    ClassProtocol, Difficulty, KITTI_CLASSES, KITTI_DIFFICULTIES, KittiEvaluator)
from kd_perception.labels.kitti_text import KittiObjects
from kd_perception.evaluation.metrics.matching import VALID
from kd_perception.labels.object_table import ObjectTable

MIN_HEIGHT_PX = 25.0
IOU = 0.5
_ANY = Difficulty('any', MIN_HEIGHT_PX, 3, 1.0)
_MODERATE = KITTI_DIFFICULTIES[1]
_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class ClassMatches:
    """
    One class on F images: scores (N,), hits (N,) bool, the image of each (N,), and objects (F,).

    Detections that count neither way are left out. `kitti_r40` is the official AP R40 [%] at moderate
    difficulty and the official IoU, None for a class that is never detected; `kitti_objects` its count.
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


def match_class(evaluator: KittiEvaluator, protocol: ClassProtocol) -> ClassMatches:
    """Match one class on all images: each object takes the highest-scoring detection over the IoU."""
    at_half = dataclasses.replace(protocol, min_iou=IOU)
    matcher = evaluator.matcher(at_half, _ANY)
    found = matcher.match_by_score()
    truth_valid = evaluator.truth_state(at_half, _ANY) == VALID
    detection_valid = evaluator.detection_state(at_half, _ANY) == VALID
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


def match_all(detect: Callable[[np.ndarray], Detections], images: Sequence,
              labels: Sequence[str]) -> dict[str, ClassMatches]:
    """
    Run a detector on labelled images and match every class.

    :param detect: (H, W, 3) uint8 BGR -> detections down to a low score.
    :param images: `datasets.LabelledImage`.
    """
    found = []
    for image in images:
        detections = detect(image.read())
        found.append(KittiObjects.from_boxes([labels[i] for i in detections.class_ids],
                                             detections.boxes_xyxy, detections.scores))
    evaluator = KittiEvaluator(ObjectTable.from_objects([image.objects for image in images]),
                               ObjectTable.from_objects(found), IOU)
    known = {protocol.name: protocol for protocol in KITTI_CLASSES}
    return {name: match_class(evaluator, known.get(name, ClassProtocol(name, IOU))) for name in labels}


def report(matches: Mapping[str, ClassMatches], intervals: bool = False) -> dict[str, dict[str, object]]:
    """
    Return label -> ap50 (0 to 1, None without objects), objects and images that hold any.

    :param intervals: add interval95 and the official figure.
    """
    entries = {}
    for name, found in matches.items():
        entry: dict[str, object] = {'ap50': _number(found.average_precision()),
                                    'objects': int(found.objects.sum()),
                                    'images': int((found.objects > 0).sum())}
        if intervals:
            interval = found.interval()
            entry['interval95'] = None if interval is None else [round(value, 4) for value in interval]
            entry['kitti_moderate_r40'] = None if found.kitti_r40 is None else round(found.kitti_r40, 2)
            entry['kitti_moderate_objects'] = found.kitti_objects
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
