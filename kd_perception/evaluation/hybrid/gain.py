# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
What the teacher's answer is worth on each single frame, in points of average precision.

The gain of a frame is its marginal contribution to the mean AP, taken at both ends: what AP rises by when
this frame alone is sent, and what it falls by when this frame alone is not; the mean of the two. That is the
value of a frame as data valuation has it (Ghorbani and Zou, Data Shapley, ICML 2019), with the smallest and
the largest coalition in place of all of them. It needs no threshold and no calibration, and a high score that
is wrong costs what it costs in AP. A count of missed objects and false alarms at a working threshold sees
neither, nor that the answers of two models, with scores of different scales, meet in one ranking.

AP here is the area under the interpolated precision over recall at every recall (as PASCAL VOC has it since
2010) with the matching by score of the KITTI program, not the 41 points: one object more must show.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kd_perception.evaluation.hybrid.frames import Answers
from kd_perception.evaluation.metrics.kitti_eval import ClassProtocol, Difficulty, KittiEvaluator
from kd_perception.evaluation.metrics.matching import VALID
from kd_perception.labels.object_table import ObjectTable


@dataclass(frozen=True)
class Outcomes:
    """
    What became of one class's detections in F frames, each frame matched by itself.

    :ivar frames: (N,) int64 frame of each detection that is either right or a false alarm.
    :ivar scores: (N,) float64. :ivar right: (N,) bool.
    :ivar truths: (F,) int64 valid ground truths of each frame.
    """

    frames: np.ndarray
    scores: np.ndarray
    right: np.ndarray
    truths: np.ndarray


def outcomes(labels: ObjectTable, detections: ObjectTable, protocol: ClassProtocol,
             difficulty: Difficulty) -> Outcomes:
    """Match by score, as the pass of the official program does that collects thresholds."""
    evaluator = KittiEvaluator(labels, detections, protocol.min_iou)
    truth_state = evaluator.truth_state(protocol, difficulty)
    state = evaluator.detection_state(protocol, difficulty)
    matcher = evaluator.matcher(protocol, difficulty)
    found = matcher.match_by_score()
    hit = (found >= 0) & (truth_state[matcher.truth_rows] == VALID) & (np.append(state, 1)[found] == VALID)
    alarm = (state == VALID) & ~evaluator.in_region(protocol)
    alarm[found[found >= 0]] = False
    rows = np.concatenate([found[hit], np.flatnonzero(alarm)])
    right = np.arange(len(rows)) < np.count_nonzero(hit)
    truths = np.bincount(labels.frame_ids[truth_state == VALID], minlength=len(labels.frames))
    return Outcomes(detections.frame_ids[rows], detections.scores[rows], right, truths)


class _ClassAp:
    """AP of one class for any set of frames that are sent; everything is sorted once."""

    def __init__(self, student: Outcomes, merged: Outcomes):
        self._frames = np.concatenate([student.frames, merged.frames])
        self._merged = np.arange(len(self._frames)) >= len(student.frames)
        scores = np.concatenate([student.scores, merged.scores])
        right = np.concatenate([student.right, merged.right])
        # Of equal scores the wrong ones first: no result depends on the order of the input.
        order = np.lexsort((right, -scores))
        self._frames, self._merged = self._frames[order], self._merged[order]
        self._right = right[order]
        self.truths = int(student.truths.sum())

    def of(self, sent: np.ndarray) -> float:
        """Return AP in percent where the frames `sent` (F,) bool are sent."""
        right = self._right[self._merged == sent[self._frames]]
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        return 100.0 * float(best[right].sum()) / max(self.truths, 1)

    def touched(self, count: int) -> np.ndarray:
        """Return (count,) bool: either model says something of this class in the frame."""
        return np.bincount(self._frames, minlength=count) > 0


def frame_gains(answers: Answers, protocols: Sequence[ClassProtocol], difficulty: Difficulty) -> np.ndarray:
    """
    Return the gain of each frame, (F,) float64 in points of the mean AP over the classes.

    :param protocols: the classes that the mean is over; one without ground truth adds nothing.
    """
    count = len(answers.labels.frames)
    gain = np.zeros(count)
    none, every = np.zeros(count, dtype=bool), np.ones(count, dtype=bool)
    for protocol in protocols:
        ap = _ClassAp(outcomes(answers.labels, answers.student, protocol, difficulty),
                      outcomes(answers.labels, answers.merged, protocol, difficulty))
        if not ap.truths:
            continue
        lowest, highest = ap.of(none), ap.of(every)
        for i in np.flatnonzero(ap.touched(count)):
            none[i], every[i] = True, False
            gain[i] += 0.5 * (ap.of(none) - lowest + highest - ap.of(every)) / len(protocols)
            none[i], every[i] = False, True
    return gain
