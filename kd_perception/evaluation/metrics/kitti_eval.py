# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
KITTI 2D object detection: average precision exactly as the official program computes it.

Source: KITTI object development kit, evaluate_object.cpp, with 41 recall points (R40 since 8 October 2019)
and the limit "height <= minimum is ignored" of the current kit; Geiger, Lenz, Urtasun, CVPR 2012. Odd
corners are kept on purpose: heights of detections are truncated to integers, a detection below the least
height is ignored before its class is looked at, and thresholds come from a pass that matches by score
while counts come from passes that match by overlap.
"""
from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np

from kd_perception.errors import EvaluationError
from kd_perception.evaluation.metrics.bootstrap import BootstrapCurve, percentile_interval
from kd_perception.evaluation.metrics.matching import (
    FrameMatcher,
    IGNORED,
    OTHER,
    overlapping_pairs,
    Pairs,
    VALID,
)
from kd_perception.labels.kitti_text import KittiObjects
from kd_perception.labels.object_table import fold_case, ObjectTable

RECALL_POINTS = 41
# Under 41 ground truths even a perfect detector stays below 97.5 % R40: the figure says little.
MIN_GROUND_TRUTHS = 41
DONT_CARE = 'DontCare'
# Scores at which resamples look up their counts; with fewer true positives than this they are exact.
_GRID = 100


@dataclass(frozen=True)
class ClassProtocol:
    """
    A class to evaluate.

    :ivar name: class name in labels and detections (case is ignored).
    :ivar min_iou: a match needs an IoU strictly above this; also the DontCare limit.
    :ivar neighbours: ground truth of these types is ignored: neither missed nor wrongly found.
    """

    name: str
    min_iou: float
    neighbours: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or not 0 < self.min_iou < 1:
            raise EvaluationError(f'class {self.name!r}: IoU is {self.min_iou}, above 0 and below 1 expected')


@dataclass(frozen=True)
class Difficulty:
    """
    Which ground truth counts.

    :ivar min_height_px: ground truth of this height or less is ignored, and so are detections whose height
        truncated to an integer is less.
    :ivar max_occlusion: ground truth of a higher occlusion level is ignored.
    :ivar max_truncation: ground truth truncated more is ignored.
    :ivar max_height_px: ground truth higher than this is ignored (no limit in KITTI).
    :ivar slack: over 1 for height bins: detections of the class count within min / slack to max * slack, as
        the Caltech toolbox has it; 1 is KITTI's own rule.
    """

    name: str
    min_height_px: float
    max_occlusion: int
    max_truncation: float
    max_height_px: float = math.inf
    slack: float = 1.0


KITTI_CLASSES = (ClassProtocol('Car', 0.7, ('Van',)), ClassProtocol('Pedestrian', 0.5, ('Person_sitting',)),
                 ClassProtocol('Cyclist', 0.5))
KITTI_DIFFICULTIES = (Difficulty('easy', 40, 0, 0.15), Difficulty('moderate', 25, 1, 0.30),
                      Difficulty('hard', 25, 2, 0.50))


@dataclass(frozen=True)
class KittiResult:
    """
    Average precision of one class and difficulty, in percent.

    :ivar ap_r40: mean of recall points 1 to 40, or None for a class that was never detected.
    :ivar ap_r11: mean of recall points 0, 4, ... 40, or None.
    :ivar precision: (41,) float64 interpolated precision, 0 to 1, or None.
    :ivar thresholds: (up to 41,) the scores at which precision was taken.
    :ivar true_positives, false_positives: counts at those thresholds.
    :ivar valid_ground_truths: ground truths that count.
    :ivar ci95: bootstrap 95 % interval of ap_r40, or None.
    :ivar resampled: ap_r40 of each resample, NaN for one without ground truths, or None.
    """

    ap_r40: float | None
    ap_r11: float | None
    precision: np.ndarray | None
    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    valid_ground_truths: int
    ci95: tuple[float, float] | None = None
    resampled: np.ndarray | None = None

    @property
    def few_ground_truths(self) -> bool:
        """True where there are too few ground truths for the figure to be read as it stands."""
        return self.valid_ground_truths < MIN_GROUND_TRUTHS


def recall_thresholds(scores: np.ndarray, ground_truths: int) -> np.ndarray:
    """
    Return the scores (up to 41,) at which recall comes nearest to 0, 1/40, ... 1 (`getThresholds`).

    :param scores: (N,) scores of the true positives, any order.
    :param ground_truths: number of valid ground truths.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))[::-1]
    return ordered[recall_indices(len(ordered), ground_truths)]


def recall_indices(count: int, ground_truths: int) -> np.ndarray:
    """Return which of ``count`` scores in falling order `recall_thresholds` picks, (up to 41,) int64."""
    picked: list[int] = []
    recall = 0.0
    i = 0
    while i < count:
        # Scores are skipped while left + right recall stay under twice the wanted one: jump to just before
        # that place, then decide with the official program's own expression and rounding.
        i = max(i, min(count - 1, int(recall * ground_truths - 1.5) - 2))
        while i < count - 1:
            left, right = (i + 1) / ground_truths, (i + 2) / ground_truths
            if not right - recall < recall - left:
                break
            i += 1
        picked.append(i)
        recall += 1.0 / (RECALL_POINTS - 1.0)
        i += 1
    return np.array(picked, dtype=np.int64)


def interpolate_precision(true_positives: np.ndarray, false_positives: np.ndarray) -> np.ndarray:
    """
    Return the 41 precision points: the maximum from each threshold on, 0 beyond the last.

    Where nothing at all was counted at a threshold the official program divides 0 by 0; the point stays NaN.
    """
    found = np.asarray(true_positives, dtype=np.float64)
    with np.errstate(invalid='ignore'):
        raw = found / (found + np.asarray(false_positives, dtype=np.float64))
    precision = np.zeros(RECALL_POINTS)
    # std::max_element skips a NaN unless it comes first.
    running = np.maximum.accumulate(np.nan_to_num(raw[::-1], nan=0.0))[::-1]
    precision[:len(raw)] = np.where(np.isnan(raw), np.nan, running)
    return precision


def average_precision(precision: np.ndarray) -> tuple[float, float]:
    """Return (R40, R11) in percent of the 41 precision points."""
    return 100.0 * float(np.mean(precision[1:])), 100.0 * float(np.mean(precision[::4]))


class KittiEvaluator:
    """
    Ground truth and detections of the same frames, prepared for any class and difficulty.

    :param labels, detections: tables with the same frames in the same order.
    :param min_iou: the lowest IoU that will be asked for.
    :raises EvaluationError: the tables have different numbers of frames.
    """

    def __init__(self, labels: ObjectTable, detections: ObjectTable, min_iou: float = 0.5):
        if len(labels.frames) != len(detections.frames):
            raise EvaluationError(f'{len(labels.frames)} frames of labels, '
                                  f'{len(detections.frames)} of detections')
        self.labels = labels
        self.detections = detections
        self._min_iou = min_iou
        dont_care = labels.is_type([DONT_CARE])
        self._pairs = overlapping_pairs(labels, detections, np.flatnonzero(~dont_care), min_iou)
        regions = overlapping_pairs(labels, detections, np.flatnonzero(dont_care), min_iou, of_detection=True)
        self._region_overlap = np.zeros(len(detections))
        np.maximum.at(self._region_overlap, regions.detection, regions.overlap)
        boxes = labels.boxes_xyxy
        self._truth_height = boxes[:, 3] - boxes[:, 1]
        self._height = np.abs(detections.boxes_xyxy[:, 1] - detections.boxes_xyxy[:, 3])

    def pairs(self, protocol: ClassProtocol) -> Pairs:
        """Return all overlapping pairs above the class's IoU."""
        if protocol.min_iou < self._min_iou:
            raise EvaluationError(f"class {protocol.name}: IoU {protocol.min_iou} is below the evaluator's "
                                  f'{self._min_iou}')
        return self._pairs.where(self._pairs.overlap > protocol.min_iou)

    def truth_state(self, protocol: ClassProtocol, difficulty: Difficulty) -> np.ndarray:
        """Return (N,) VALID, IGNORED or OTHER for each ground truth (`cleanData`)."""
        labels = self.labels
        own = labels.is_type([protocol.name])
        outside = (labels.occlusion > difficulty.max_occlusion) | (
            labels.truncation > difficulty.max_truncation) | (
            self._truth_height <= difficulty.min_height_px) | (self._truth_height > difficulty.max_height_px)
        state = np.where(own, np.where(outside, IGNORED, VALID), OTHER)
        return np.where(labels.is_type(protocol.neighbours) & ~own, IGNORED, state)

    def detection_state(self, protocol: ClassProtocol, difficulty: Difficulty) -> np.ndarray:
        """Return (M,) VALID, IGNORED or OTHER for each detection (`cleanData`)."""
        own = self.detections.is_type([protocol.name])
        if difficulty.slack != 1.0:
            inside = (self._height >= difficulty.min_height_px / difficulty.slack) & (
                self._height < difficulty.max_height_px * difficulty.slack)
            return np.where(own, np.where(inside, VALID, IGNORED), OTHER)
        small = np.trunc(self._height) < difficulty.min_height_px
        return np.where(small, IGNORED, np.where(own, VALID, OTHER))

    def matcher(self, protocol: ClassProtocol, difficulty: Difficulty) -> FrameMatcher:
        """Return the matcher of one class and difficulty."""
        return FrameMatcher(self.pairs(protocol), self.labels, self.truth_state(protocol, difficulty),
                            self.detection_state(protocol, difficulty), self.detections.scores)

    def in_region(self, protocol: ClassProtocol) -> np.ndarray:
        """Return (M,) bool: the detection lies in a DontCare region, so that it is never a false alarm."""
        return self._region_overlap > protocol.min_iou

    def detected(self, protocol: ClassProtocol) -> bool:
        """Return whether the official program evaluates the class: a detection of it with left >= 0."""
        own = self.detections.is_type([protocol.name])
        return bool((own & (self.detections.boxes_xyxy[:, 0] >= 0)).any())

    def curve(self, protocol: ClassProtocol, difficulty: Difficulty,
              groups: np.ndarray | None = None, grid: int = 0) -> 'BootstrapCurve':
        """
        Match at the official thresholds and count, by group where groups are given.

        :param groups: (F,) int64 group of each frame, for the bootstrap; None counts all frames together.
        :param grid: also count at up to this many further scores, for the thresholds of resamples.
        """
        truth_state = self.truth_state(protocol, difficulty)
        state = self.detection_state(protocol, difficulty)
        matcher = FrameMatcher(self.pairs(protocol), self.labels, truth_state, state, self.detections.scores)
        valid_detection = np.append(state == VALID, False)
        valid_truth = truth_state[matcher.truth_rows] == VALID
        by_score = matcher.match_by_score()
        hits = valid_truth & valid_detection[by_score]
        total = int((truth_state == VALID).sum())
        scores = self.detections.scores[by_score[hits]]
        official = recall_thresholds(scores, total)
        thresholds = official
        if grid and len(scores):
            places = np.linspace(0, len(scores) - 1, min(grid, len(scores))).astype(np.int64)
            thresholds = np.unique(np.concatenate([official, np.sort(scores)[places]]))[::-1]
        group = np.zeros(len(self.labels.frames), dtype=np.int64) if groups is None else groups
        count = int(group.max()) + 1 if len(group) else 1
        truth_group = group[_frames_of(self.labels, matcher.truth_rows)]
        # Never a false alarm: a detection that lies in a DontCare region or is matched to anything.
        countable = np.append((state == VALID) & ~self.in_region(protocol), False)
        kind = np.float64 if groups is None else np.float32
        true_positives = np.zeros((len(thresholds), count), dtype=kind)
        assigned = np.zeros((len(thresholds), count), dtype=kind)
        for block, matched in matcher.match_at(thresholds):
            for i, found in enumerate(matched, block.start):
                hit = valid_truth & valid_detection[found]
                true_positives[i] = np.bincount(truth_group[hit], minlength=count)
                assigned[i] = np.bincount(truth_group[countable[found]], minlength=count)
        rows = np.flatnonzero(countable[:-1])
        # Thresholds fall: a detection counts from the first threshold that its score reaches.
        first = np.searchsorted(-thresholds, -self.detections.scores[rows], side='left')
        cell = first * count + group[_frames_of(self.detections, rows)]
        new = np.bincount(cell[first < len(thresholds)], minlength=len(thresholds) * count)
        alarms = np.cumsum(new.reshape(len(thresholds), count), axis=0, dtype=kind) - assigned
        truths = group[_frames_of(self.labels, np.flatnonzero(truth_state == VALID))]
        return BootstrapCurve(thresholds, true_positives, alarms, np.bincount(truths, minlength=count),
                              scores, truth_group[hits], official)

    def evaluate(self, protocol: ClassProtocol, difficulty: Difficulty, bootstrap: int = 0,
                 groups: np.ndarray | None = None, seed: int = 0) -> KittiResult:
        """
        Return the result of one class and difficulty.

        :param bootstrap: number of resamples for ``ci95``; 0 for none.
        :param groups: (F,) int64 scene group of each frame; groups are resampled whole. None: frames are.
        :param seed: of the resampling.
        """
        if not self.detected(protocol):
            total = int((self.truth_state(protocol, difficulty) == VALID).sum())
            nothing = np.zeros(0)
            return KittiResult(None, None, None, nothing, nothing, nothing, total)
        if bootstrap and groups is None:
            groups = np.arange(len(self.labels.frames))
        curve = self.curve(protocol, difficulty, groups if bootstrap else None, _GRID if bootstrap else 0)
        at = np.searchsorted(-curve.thresholds, -curve.official_thresholds)
        hits, alarms = (counts.sum(axis=1, dtype=np.float64)[at]
                        for counts in (curve.true_positives, curve.false_positives))
        precision = interpolate_precision(hits, alarms)
        r40, r11 = average_precision(precision)
        resampled = curve.resampled(bootstrap, seed, recall_indices) if bootstrap else None
        interval = None if resampled is None else percentile_interval(resampled)
        return KittiResult(r40, r11, precision, curve.official_thresholds, hits, alarms,
                           int(curve.valid_truths.sum()), interval, resampled)


def _frames_of(table: ObjectTable, rows: np.ndarray) -> np.ndarray:
    """Return the frame of each of the rows."""
    return np.searchsorted(table.offsets, rows, side='right') - 1


def evaluate_kitti(labels: ObjectTable | Sequence[KittiObjects],
                   detections: ObjectTable | Sequence[KittiObjects],
                   classes: Sequence[ClassProtocol] = KITTI_CLASSES,
                   difficulties: Sequence[Difficulty] = KITTI_DIFFICULTIES, bootstrap: int = 0,
                   groups: np.ndarray | None = None, seed: int = 0) -> dict[str, dict[str, KittiResult]]:
    """
    Return {class: {difficulty: result}} of frames with labels and detections in the same order.

    :param labels, detections: one `KittiObjects` a frame, or a table of them.
    :raises EvaluationError: different numbers of frames, or a class given twice.
    """
    names = [fold_case(protocol.name) for protocol in classes]
    if len(set(names)) != len(names):
        raise EvaluationError(f'classes {", ".join(names)}: one is given twice')
    if not isinstance(labels, ObjectTable):
        labels = ObjectTable.from_objects(labels)
    if not isinstance(detections, ObjectTable):
        detections = ObjectTable.from_objects(detections)
    evaluator = KittiEvaluator(labels, detections, min((item.min_iou for item in classes), default=0.5))
    return {protocol.name: {
        difficulty.name: evaluator.evaluate(protocol, difficulty, bootstrap, groups, seed)
        for difficulty in difficulties} for protocol in classes}
