# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Frames whose detections are made up: a perfect teacher, and a student that is blind on half of them."""
import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.evaluation.hybrid.frames import PairedFrames
from kd_perception.images.scene import SceneSignals
from kd_perception.labels.kitti_text import KittiObjects
from kd_perception.labels.object_table import ObjectTable
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec

LABELS = ('Car', 'Pedestrian', 'Cyclist')
HW = (200, 600)
SCENE = SceneSignals(100.0, 40.0, 0.1, 0.0, 200.0)


def spec(name, labels=LABELS):
    return ModelSpec(name, labels, InputSpec(96, 128), DecoderSpec('boxes_scores'))


def detections(boxes, scores, classes):
    return Detections(np.array(boxes, dtype=float).reshape(-1, 4), np.array(scores, dtype=float),
                      np.array(classes, dtype=int))


def cars(rng, count):
    """Return boxes (count, 4) side by side, 60 px high."""
    left = rng.permutation(6)[:count] * 100.0
    return np.stack([left, np.full(count, 50.0), left + 80, np.full(count, 110.0)], axis=1)


def world(count=60, seed=0, blind=0.5, drive=False, sets=('a',), wrong=True):
    """
    Return (frames, blind (F,) bool).

    Where the student is blind its boxes are of scores below the working threshold, and it sees a ghost.
    """
    rng = np.random.default_rng(seed)
    dark = rng.permutation(count) < round(blind * count)
    labels, student, teacher = [], [], []
    for i in range(count):
        boxes = cars(rng, rng.integers(1, 4))
        labels.append(KittiObjects.from_boxes(['Car'] * len(boxes), boxes))
        sure = rng.uniform(0.7, 0.95, len(boxes))
        teacher.append(detections(boxes, sure, [0] * len(boxes)))
        if dark[i]:
            ghost = cars(rng, 2) + [0, 60, 0, 60]
            weak = np.concatenate([rng.uniform(0.1, 0.3, len(boxes)), rng.uniform(0.1, 0.38, 2)])
            keep = slice(None) if wrong else slice(len(boxes))
            found = np.concatenate([boxes + 30, ghost])[keep]
            student.append(detections(found, weak[keep], [0] * len(found)))
        else:
            student.append(detections(boxes, sure - 0.05, [0] * len(boxes)))
    names = tuple(f'{i:06d}' for i in range(count))
    return PairedFrames(
        names, tuple(sets[i * len(sets) // count] for i in range(count)),
        np.zeros(count, dtype=np.int64) if drive else np.arange(count),
        ObjectTable.from_objects(labels, names),
        tuple(student), tuple(teacher), np.arange(1, count + 1) * 100_000_000,
        np.tile(HW, (count, 1)), (SCENE,) * count, spec('student'), spec('teacher')), dark
