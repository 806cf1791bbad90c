# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Turn a model's detections into labels to train on, beside the labels that an image may have already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
import dataclasses

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.boxes.overlap import box_area, box_intersection_over_area, box_iou, clip_boxes
from kd_perception.labels.kitti_text import KittiObjects

IGNORED = 'DontCare'
# Two boxes above this are one object, whatever their types: a cyclist's label and the person on it.
SAME_IOU = 0.4
# From this share of a detection inside a label, it may be a part of that object.
PART = 0.7
# Detections of one class have passed the model's non-maximum suppression; between classes nothing has.
RIVAL_IOU = 0.6
# From which score a model's detection is a label, and from which it is a DontCare region.
DEFAULT_SCORES = {'Car': 0.45}
DEFAULT_SCORE, DEFAULT_UNCERTAIN = 0.5, 0.2


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """
    Which detections become labels.

    :param sure: class -> least score of a label.
    :param uncertain: from this score, and below its class's, a detection becomes a DontCare region.
    """

    sure: Mapping[str, float]
    uncertain: float


@dataclasses.dataclass(frozen=True, eq=False)
class Merged:
    """
    The labels of one image.

    :param objects: those given, unchanged and first, then the new ones, strongest first.
    :param added: new labels by class; `ignored`: new DontCare regions by the class of the detection;
        `known`: detections left out because a label or a stronger detection of another class tells of them.
    """

    objects: KittiObjects
    added: Counter
    ignored: Counter
    known: Counter


def merge_labels(given: KittiObjects, complete: Set[str], detections: Detections, labels: Sequence[str],
                 thresholds: Thresholds, image_hw: tuple[int, int]) -> Merged:
    """
    Add to an image's labels what a model sees.

    Sure detections become labels, doubtful ones DontCare regions: neither object nor background (as in
    Sohn et al., 'A Simple Semi-Supervised Learning Framework for Object Detection', 2020, with a band of
    scores in place of one threshold). A detection that a label tells of already is left out; one that
    lies inside a label of another class may be a part of that object or stand before it, and is DontCare.

    :param given: labels that exist; any types.
    :param complete: classes that `given` labels throughout: the model's view of these is not asked for.
    :param detections: in px of the image; `labels`: the model's class names.
    :param image_hw: boxes are cut at the image's borders.
    """
    added, ignored, known = Counter(), Counter(), Counter()
    types, boxes, kept = [], [], []
    clipped = clip_boxes(np.asarray(detections.boxes_xyxy, np.float64), image_hw)
    area = box_area(clipped)
    for i in np.argsort(-detections.scores, kind='stable'):
        name, score, box = labels[detections.class_ids[i]], detections.scores[i], clipped[i]
        if name in complete or score < thresholds.uncertain or area[i] <= 0:
            continue
        doubtful = score < thresholds.sure[name]
        place = _place(name, box, given)
        if place == 'known' or _rivalled(name, box, kept, doubtful):
            known[name] += 1
            continue
        doubtful |= place == 'inside'
        (ignored if doubtful else added)[name] += 1
        types.append(IGNORED if doubtful else name)
        boxes.append(box)
        kept.append((name, box))
    new = KittiObjects.from_boxes(types, np.array(boxes).reshape(-1, 4))
    return Merged(_concatenated(given, new), added, ignored, known)


def _place(name: str, box: np.ndarray, given: KittiObjects) -> str:
    """Return what the labels say of a box: `known`, `inside` one of another type, or `new`."""
    if not len(given):
        return 'new'
    if box_iou(box[None], given.boxes_xyxy).max() >= SAME_IOU:
        return 'known'
    inside = box_intersection_over_area(box[None], given.boxes_xyxy)[0] >= PART
    if any(kind in (name, IGNORED) for kind, within in zip(given.types, inside) if within):
        return 'known'
    return 'inside' if inside.any() else 'new'


def _rivalled(name: str, box: np.ndarray, stronger: Sequence[tuple[str, np.ndarray]],
              doubtful: bool) -> bool:
    """Return whether a stronger detection tells of this one; a doubtful one may be its own class's echo."""
    if not stronger:
        return False
    iou = box_iou(box[None], np.array([other for _, other in stronger]))[0]
    own = SAME_IOU if doubtful else np.inf
    least = np.array([own if kind == name else RIVAL_IOU for kind, _ in stronger])
    return bool((iou >= least).any())


def _concatenated(first: KittiObjects, second: KittiObjects) -> KittiObjects:
    columns = [field.name for field in dataclasses.fields(KittiObjects)
               if field.name not in ('types', 'scores')]
    return KittiObjects(first.types + second.types, **{
        name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in columns})
