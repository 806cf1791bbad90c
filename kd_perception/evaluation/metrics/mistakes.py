# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a detector gets wrong at its working threshold: counts, largest misses, surest false alarms."""
from dataclasses import dataclass

import numpy as np

from kd_perception.evaluation.metrics.kitti_eval import ClassProtocol, Difficulty, KittiEvaluator
from kd_perception.evaluation.metrics.matching import VALID
from kd_perception.labels.object_table import ObjectTable


@dataclass(frozen=True)
class Mistake:
    """One missed object or false alarm: frame index, class, box [px], and what to say about it."""

    frame: int
    class_name: str
    box_xyxy: tuple[float, float, float, float]
    score: float
    note: str


@dataclass(frozen=True)
class Picture:
    """A mistake as shown in the report: JPEG as data URI (None without an image), and its caption."""

    frame: str
    caption: str
    note: str
    data_uri: str | None


@dataclass(frozen=True)
class OperatingPoint:
    """Counts at one score threshold; ``missed`` and ``false_alarms`` are rows of labels and detections."""

    threshold: float
    true_positives: int
    missed: np.ndarray
    false_alarms: np.ndarray

    @property
    def precision(self) -> float:
        """Share of right detections, NaN without detections."""
        whole = self.true_positives + len(self.false_alarms)
        return self.true_positives / whole if whole else float('nan')

    @property
    def recall(self) -> float:
        """Share of found ground truths, NaN without any."""
        whole = self.true_positives + len(self.missed)
        return self.true_positives / whole if whole else float('nan')


def operating_point(evaluator: KittiEvaluator, protocol: ClassProtocol, difficulty: Difficulty,
                    threshold: float) -> OperatingPoint:
    """Match at one score threshold, as the official program does at each of its own."""
    matcher = evaluator.matcher(protocol, difficulty)
    truth_state = evaluator.truth_state(protocol, difficulty)
    state = evaluator.detection_state(protocol, difficulty)
    _, matched = next(matcher.match_at(np.array([threshold])))
    found = matched[0]
    hit = (found >= 0) & (truth_state[matcher.truth_rows] == VALID) & (np.append(state, 1)[found] == VALID)
    # An ignored detection on a ground truth makes it neither found nor missed.
    missed = truth_state == VALID
    missed[matcher.truth_rows[found >= 0]] = False
    alarm = (state == VALID) & (evaluator.detections.scores >= threshold) & ~evaluator.in_region(protocol)
    alarm[found[found >= 0]] = False
    return OperatingPoint(threshold, int(hit.sum()), np.flatnonzero(missed), np.flatnonzero(alarm))


def _spread(table: ObjectTable, rows: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Take the first ``count`` rows (frame, row), at most one a frame while others are left."""
    frames = np.searchsorted(table.offsets, rows, side='right') - 1
    _, first = np.unique(frames, return_index=True)
    order = np.concatenate([np.sort(first), np.setdiff1d(np.arange(len(rows)), first)]).astype(np.int64)
    return [(int(frames[i]), int(rows[i])) for i in order[:count]]


def worst_misses(evaluator: KittiEvaluator, protocol: ClassProtocol, point: OperatingPoint,
                 count: int) -> list[Mistake]:
    """Return the largest missed objects, from different frames first, and what overlaps them best."""
    labels, detections = evaluator.labels, evaluator.detections
    height = labels.boxes_xyxy[point.missed, 3] - labels.boxes_xyxy[point.missed, 1]
    rows = point.missed[np.argsort(-height, kind='stable')]
    own = detections.is_type([protocol.name])
    mistakes = []
    for frame, row in _spread(labels, rows, count):
        box = labels.boxes_xyxy[row]
        low, high = detections.offsets[frame], detections.offsets[frame + 1]
        near = np.arange(low, high)[own[low:high]]
        iou = _iou(box, detections.boxes_xyxy[near])
        note = 'nothing detected there'
        if len(near) and iou.max() > 0:
            best = int(np.argmax(iou))
            note = f'best overlap: score {detections.scores[near[best]]:.2f}, IoU {iou[best]:.2f}'
        mistakes.append(Mistake(frame, protocol.name, tuple(box.tolist()), float('nan'), note))
    return mistakes


def worst_false_alarms(evaluator: KittiEvaluator, protocol: ClassProtocol, point: OperatingPoint,
                       count: int) -> list[Mistake]:
    """Return the false alarms of highest score, from different frames first, with what lies under them."""
    labels, detections = evaluator.labels, evaluator.detections
    rows = point.false_alarms[np.argsort(-detections.scores[point.false_alarms], kind='stable')]
    mistakes = []
    for frame, row in _spread(detections, rows, count):
        box = detections.boxes_xyxy[row]
        low, high = labels.offsets[frame], labels.offsets[frame + 1]
        iou = _iou(box, labels.boxes_xyxy[low:high])
        note = 'nothing labelled there'
        if len(iou) and iou.max() > 0:
            best = int(np.argmax(iou))
            name = labels.type_names[labels.type_ids[low + best]]
            note = f'best overlap: {name}, IoU {iou[best]:.2f}'
        score = float(detections.scores[row])
        mistakes.append(Mistake(frame, protocol.name, tuple(box.tolist()), score, note))
    return mistakes


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    size = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    inter = np.clip(size, 0, None).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - inter
    return np.divide(inter, union, out=np.zeros(len(others)), where=union > 0)
