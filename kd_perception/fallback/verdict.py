# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
What the teacher said of each object, brought to a later frame in which only the student has looked.

The teacher's verdict on an object is its score. An object that both know keeps that score, and the teacher's
box as it has moved, which the student's draws a little towards itself. What only the teacher knows loses
score as time goes by, and soon if the student had seen it before. Where the student alone saw something, and
the teacher nothing, the student does not become right a frame later: there it gets the teacher's score, too.
What appears is the student's.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.boxes.overlap import class_iou, matched_columns

# Of a box that the teacher does not mention its score is below all that it gives.
_UNSEEN_SCORE = 0.05
# How far a box moves towards the student's fresher one, so that it does not drift off.
_PULL = 0.2
# A box that the student had seen and sees no more is where its object is not: it loses more, each second.
_LOST_DECAY = 0.002


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """
    Of one frame.

    :param carried: the teacher's boxes, with its scores.
    :param refuted: the student's boxes that none of them confirms, with the score that the teacher gives.
    :param known: (M,) bool, of the carried ones: the student has seen it, too.
    """

    carried: Detections
    refuted: Detections
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.carried) + len(self.refuted)

    def above(self, min_score: float) -> Verdicts:
        """Return the verdicts without the carried boxes of a lower score."""
        kept = self.carried.scores >= min_score
        return dataclasses.replace(self, carried=self.carried.select(kept), known=self.known[kept])


NOTHING = Verdicts(Detections.empty(), Detections.empty(), np.zeros(0, dtype=bool))


def judge(answer: Detections, student: Detections, min_score: float, min_iou: float,
          most: int) -> Verdicts:
    """
    Return the verdicts of a frame that both models have seen.

    :param most: of the boxes of each kind, those of highest score.
    """
    carried = answer.above(min_score).by_score().select(slice(most))
    found = student.above(min_score).by_score().select(slice(most))
    told = np.where(_same(found, answer) >= min_iou, answer.scores[None, :], _UNSEEN_SCORE).max(
        axis=1, initial=_UNSEEN_SCORE)
    refuted = told < min_score
    known = np.any(_same(student, carried) >= min_iou, axis=0)
    return Verdicts(carried, Detections(
        found.boxes_xyxy[refuted], told[refuted], found.class_ids[refuted]), known)


class Applied(NamedTuple):
    """
    A later frame's answer.

    :param verdicts: as they are carried on from here. :param student: what is the student's alone.
    :param refuted: how many boxes of the student got a lower score.
    """

    verdicts: Verdicts
    student: Detections
    refuted: int


def apply(verdicts: Verdicts, published: Detections, student: Detections, min_iou: float, decay: float,
          seconds: float) -> Applied:
    """
    Bring verdicts, whose boxes have been moved to this frame already, and a student's result together.

    :param published: what of the student's result would be published. :param student: all of it; a weak
        box confirms as well.
    :param decay: factor of the score of a box that the student does not confirm, for each of the `seconds`.
    """
    carried, refuted = verdicts.carried, verdicts.refuted
    partner = _partners(_same(student, carried), min_iou)
    seen = partner >= 0
    boxes = carried.boxes_xyxy.copy()
    boxes[seen] = (1 - _PULL) * boxes[seen] + _PULL * student.boxes_xyxy[partner[seen]]
    factor = np.where(verdicts.known, decay * _LOST_DECAY, decay) ** seconds
    scores = carried.scores * np.where(seen, 1.0, factor)
    alone = published.select(np.all(_same(published, carried) < min_iou, axis=1))
    told = np.where(_same(alone, refuted) >= min_iou, refuted.scores[None, :], np.inf).min(
        axis=1, initial=np.inf)
    lower = told < alone.scores
    alone = dataclasses.replace(alone, scores=np.where(lower, told, alone.scores))
    moved = Verdicts(Detections(boxes, scores, carried.class_ids), refuted, verdicts.known | seen)
    return Applied(moved, alone, int(np.count_nonzero(lower)))


def _same(first: Detections, second: Detections) -> np.ndarray:
    """Return the IoU (N, M) of boxes of one class, 0 for others."""
    return class_iou(first.boxes_xyxy, first.class_ids, second.boxes_xyxy, second.class_ids)


def _partners(same: np.ndarray, min_iou: float) -> np.ndarray:
    """Return for each carried box (M,) the student's box that is it, -1: none; one each, best first."""
    chosen = matched_columns(same, min_iou)
    partner = np.full(same.shape[1], -1)
    partner[chosen[chosen >= 0]] = np.flatnonzero(chosen >= 0)
    return partner
