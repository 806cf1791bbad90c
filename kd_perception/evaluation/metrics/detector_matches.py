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

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.evaluation.metrics.class_matches import ClassMatches, IOU, match_class
from kd_perception.evaluation.metrics.kitti_eval import ClassProtocol, KITTI_CLASSES, KittiEvaluator
from kd_perception.labels.kitti_text import KittiObjects
from kd_perception.labels.object_table import ObjectTable


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
