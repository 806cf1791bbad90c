# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Where student and teacher see different things on one frame."""

from __future__ import annotations

import dataclasses

import numpy as np

from kd_perception.boxes.overlap import box_iou
from kd_perception.recording.recorded import Boxes, RecordedFrame

MIN_IOU = 0.5


@dataclasses.dataclass(frozen=True)
class WorkingScores:
    """From which score a box of each model counts, in [0, 1]."""

    student: float
    teacher: float


@dataclasses.dataclass(frozen=True, eq=False)
class Disagreement:
    """
    The comparison of two sets of boxes.

    :param student, teacher: the boxes that count.
    :param agreed: (student, teacher) indices of pairs of one class; `renamed`: of pairs of two classes.
    :param only_student, only_teacher: indices of boxes that the other does not have.
    """

    student: Boxes
    teacher: Boxes
    agreed: tuple[tuple[int, int], ...]
    renamed: tuple[tuple[int, int], ...]
    only_student: tuple[int, ...]
    only_teacher: tuple[int, ...]

    @property
    def count(self) -> int:
        """Return the number of objects on which the two disagree; a pair of two classes is one."""
        return len(self.renamed) + len(self.only_student) + len(self.only_teacher)

    @property
    def weight(self) -> float:
        """Return the sum of the scores in question; of frames with one count the surest comes first."""
        pairs = sum(max(self.student.scores[i], self.teacher.scores[j]) for i, j in self.renamed)
        return float(pairs + self.student.scores[list(self.only_student)].sum()
                     + self.teacher.scores[list(self.only_teacher)].sum())


def match_boxes(first: Boxes, second: Boxes, min_iou: float = MIN_IOU) -> list[tuple[int, int]]:
    """
    Pair boxes one to one, pairs of one class before pairs of two, then by falling IoU.

    Greedy: a box takes the best partner that is left. Equal IoUs go by the boxes' order.

    :param min_iou: least IoU of a pair, itself included.
    :return: (index in first, index in second), in the order in which they were paired.
    """
    iou = box_iou(first.boxes_xyxy, second.boxes_xyxy)
    rows, columns = np.nonzero((iou >= min_iou) & (iou > 0))
    renamed = np.array([first.names[i] != second.names[j] for i, j in zip(rows, columns)], bool)
    pairs, used_first, used_second = [], set(), set()
    for k in np.lexsort((-iou[rows, columns], renamed)):
        i, j = int(rows[k]), int(columns[k])
        if i not in used_first and j not in used_second:
            used_first.add(i)
            used_second.add(j)
            pairs.append((i, j))
    return pairs


def compare(frame: RecordedFrame, scores: WorkingScores) -> Disagreement | None:
    """Compare student and teacher at their working scores; None where the teacher has not answered."""
    if frame.teacher is None:
        return None
    return compare_boxes(frame.student.above(scores.student), frame.teacher.above(scores.teacher))


def compare_boxes(student: Boxes, teacher: Boxes) -> Disagreement:
    """Compare two models' boxes on one frame, as many as there are."""
    pairs = match_boxes(student, teacher)
    same = [student.names[i] == teacher.names[j] for i, j in pairs]
    return Disagreement(
        student, teacher, tuple(pair for pair, one in zip(pairs, same) if one),
        tuple(pair for pair, one in zip(pairs, same) if not one),
        tuple(sorted(set(range(len(student.names))) - {i for i, _ in pairs})),
        tuple(sorted(set(range(len(teacher.names))) - {j for _, j in pairs})))
