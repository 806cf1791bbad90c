# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What the loss is told about one image, and how labels and a pretrained network's view make it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.boxes.overlap import box_intersection_over_area, box_iou
from kd_perception.boxes.riders import joined_boxes, ridden_machines
from kd_perception.labels.kitti_text import KittiObjects
from kd_perception.training.settings.run import DatasetSettings, PseudoLabelSettings

# COCO classes (80-class order) that tell a rider from a pedestrian.
PERSON, BICYCLE, CAR, MOTORCYCLE, BUS, TRUCK = 0, 1, 2, 3, 5, 7


@dataclasses.dataclass(frozen=True, eq=False)
class Targets:
    """
    Boxes to learn and regions to leave out of the loss, in px of one image.

    :param boxes_xyxy: (N, 4) float32; `class_ids`: (N,) int64.
    :param ignore_xyxy: (M, 4) float32 regions where the classes of `ignore_classes` (M, C) bool are
        neither right nor wrong.
    """

    boxes_xyxy: np.ndarray
    class_ids: np.ndarray
    ignore_xyxy: np.ndarray
    ignore_classes: np.ndarray


class _Builder:
    """Collects objects and ignored regions by class name."""

    def __init__(self, labels: Sequence[str]):
        self.labels = list(labels)
        self.boxes: list[np.ndarray] = []
        self.ids: list[int] = []
        self.ignored: list[np.ndarray] = []
        self.masks: list[np.ndarray] = []

    def add(self, name: str, box: np.ndarray) -> None:
        self.boxes.append(box)
        self.ids.append(self.labels.index(name))

    def ignore(self, names: Sequence[str], box: np.ndarray) -> None:
        self.ignored.append(box)
        self.masks.append(np.array([label in names for label in self.labels]))

    def covers(self, box: np.ndarray, iou: float, inside: float) -> bool:
        """Return whether an object (by IoU) or an object or region (by share of the box) covers it."""
        if self.boxes and box_iou(box[None], np.array(self.boxes)).max() >= iou:
            return True
        known = self.boxes + self.ignored
        return bool(known) and bool(box_intersection_over_area(box[None], np.array(known)).max() >= inside)

    def build(self) -> Targets:
        return Targets(np.array(self.boxes, np.float32).reshape(-1, 4), np.array(self.ids, np.int64),
                       np.array(self.ignored, np.float32).reshape(-1, 4),
                       np.array(self.masks, bool).reshape(-1, len(self.labels)))


def reconcile(objects: KittiObjects, pretrained: Detections, labels: Sequence[str],
              dataset: DatasetSettings, settings: PseudoLabelSettings) -> Targets:
    """
    Turn one image's labels into targets, trusting them as far as the data set's settings say.

    :param objects: the labels.
    :param pretrained: a COCO network's detections (80-class ids), px of the same image; only read
        where the data set is weak (`verify`) or incomplete.
    :param labels: our classes in channel order.
    """
    builder = _Builder(labels)
    riding = labelled_riders(objects, dataset)
    for kind, box, rides in zip(objects.types, objects.boxes_xyxy, riding):
        if kind in dataset.ignore:
            builder.ignore(dataset.ignore[kind], box)
        elif kind in builder.labels:
            if kind in dataset.verify and not _agrees(kind, box, pretrained, settings):
                builder.ignore(labels, box)
            elif rides:
                builder.ignore(labels, box)
            else:
                builder.add(kind, box)
    if not dataset.complete:
        _add_pseudo_labels(builder, pretrained, settings)
    return builder.build()


def labelled_riders(objects: KittiObjects, dataset: DatasetSettings) -> np.ndarray:
    """(N,) bool: labelled pedestrians who sit on something of the set's `riders_over` types."""
    types = np.array(objects.types, dtype=object)
    machines = objects.boxes_xyxy[np.isin(types, dataset.riders_over)]
    if not len(machines):
        return np.zeros(len(objects), bool)
    over = box_intersection_over_area(objects.boxes_xyxy, machines).max(1) > 0.1
    return (types == 'Pedestrian') & over


def for_measuring(objects: KittiObjects, dataset: DatasetSettings) -> KittiObjects:
    """Return the labels with riders of unclassed machines as DontCare, which is how they are trained."""
    riding = labelled_riders(objects, dataset)
    types = tuple('DontCare' if rides else kind for kind, rides in zip(objects.types, riding))
    return dataclasses.replace(objects, types=types)


def _agrees(kind: str, box: np.ndarray, pretrained: Detections, settings: PseudoLabelSettings) -> bool:
    if kind == 'Cyclist':  # a bicycle within the box, and no motorcycle more likely
        best = {}
        for coco in (BICYCLE, MOTORCYCLE):
            found = pretrained.select(pretrained.class_ids == coco)
            inside = box_intersection_over_area(found.boxes_xyxy, box[None])[:, 0] > 0.5
            best[coco] = found.scores[inside].max(initial=0.0)
        return best[BICYCLE] >= settings.uncertain and best[BICYCLE] > best[MOTORCYCLE]
    wanted = (CAR, TRUCK) if kind == 'Car' else (PERSON,)
    found = pretrained.select(np.isin(pretrained.class_ids, wanted)).above(settings.uncertain)
    return len(found) > 0 and bool(box_iou(box[None], found.boxes_xyxy).max() >= settings.agree_iou)


def find_riders(pretrained: Detections,
                settings: PseudoLabelSettings) -> Mapping[int, tuple[str, np.ndarray]]:
    """
    Find the persons who ride, among a COCO network's detections.

    Who rides is `boxes.riders`' to say; KITTI's Cyclist box holds both, so the boxes are joined.

    :return: index of the person -> ('Cyclist' or 'ignore', box (4,) px); 'ignore' for motorcycles and
        for pairs that are not sure enough.
    """
    machines = np.flatnonzero(np.isin(pretrained.class_ids, (BICYCLE, MOTORCYCLE))
                              & (pretrained.scores >= settings.uncertain))
    people = np.flatnonzero(pretrained.class_ids == PERSON)
    boxes = pretrained.boxes_xyxy
    ridden = ridden_machines(boxes[people], boxes[machines], pretrained.scores[machines])
    riding = ridden >= 0
    people, machines = people[riding], machines[ridden[riding]]
    sure = ((pretrained.class_ids[machines] == BICYCLE)
            & (np.minimum(pretrained.scores[machines], pretrained.scores[people]) >= settings.rider))
    return {int(person): ('Cyclist' if certain else 'ignore', box)
            for person, certain, box in zip(people, sure, joined_boxes(boxes[people], boxes[machines]))}


def _add_pseudo_labels(builder: _Builder, pretrained: Detections, settings: PseudoLabelSettings) -> None:
    """Add what the pretrained network is sure of and no label covers; ignore what it doubts."""
    riders = find_riders(pretrained, settings)
    names = {CAR: ('Car', settings.car), PERSON: ('Pedestrian', settings.person)}
    for i in np.argsort(-pretrained.scores, kind='stable'):
        name, sure = names.get(int(pretrained.class_ids[i]), ('', 0.0))
        if name not in builder.labels or pretrained.scores[i] < settings.uncertain:
            continue
        box = np.asarray(pretrained.boxes_xyxy[i], np.float64)
        if i in riders:
            kind, joined = riders[int(i)]
            if builder.covers(joined, 0.4, 0.7) or builder.covers(box, 0.4, 0.7):
                continue
            if kind in builder.labels:
                builder.add(kind, joined)
            else:
                builder.ignore(builder.labels, joined)
        elif builder.covers(box, 0.4, 0.7):
            continue
        elif pretrained.scores[i] >= sure:
            builder.add(name, box)
        else:
            builder.ignore([name], box)
