# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The matching of the KITTI object development kit, over all frames and score thresholds at once.

The official program (evaluate_object.cpp, `computeStatistics`) walks over frames, ground truths and
detections in file order. Only the order inside a frame matters, so that here the n-th ground truth of
every frame is matched at the same time, and only against detections that overlap enough.
"""
from dataclasses import dataclass
from typing import Iterator, Tuple

from kd_perception.evaluation.object_table import ObjectTable
import numpy as np

# Pairs of boxes or (threshold, pair) cells worked on at once: small enough for the processor's cache.
_BLOCK = 1 << 18
# `NO_DETECTION` of the official program: in the pass that collects scores nothing at or below it counts.
NO_DETECTION = -10000000.0
VALID, IGNORED, OTHER = 0, 1, -1


@dataclass(frozen=True)
class Pairs:
    """
    Ground truths and detections of one frame that overlap (P pairs, by ground truth, then detection).

    :ivar truth: (P,) int64 index into the ground truths.
    :ivar detection: (P,) int64 index into the detections.
    :ivar overlap: (P,) float64.
    """

    truth: np.ndarray
    detection: np.ndarray
    overlap: np.ndarray

    def where(self, keep: np.ndarray) -> 'Pairs':
        """Return the pairs where ``keep`` (P,) bool is set."""
        return Pairs(self.truth[keep], self.detection[keep], self.overlap[keep])


def frame_products(rows_per_frame: np.ndarray,
                   offsets: np.ndarray) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """
    Yield all (row, detection) index pairs within frames, in blocks, by row, then detection.

    :param rows_per_frame: (R,) int64: the frame of each row, rising.
    :param offsets: (F + 1,) int64: the detections of frame f are offsets[f]:offsets[f + 1].
    """
    counts = np.diff(offsets)[rows_per_frame]
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        before = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, before + _BLOCK, side='right')), first + 1)
        number = counts[first:last]
        start = offsets[rows_per_frame[first:last]] - (ends[first:last] - number - before)
        detections = np.arange(int(ends[last - 1] - before)) + np.repeat(start, number)
        yield np.repeat(np.arange(first, last), number), detections
        first = last


def overlapping_pairs(truths: ObjectTable, detections: ObjectTable, rows: np.ndarray, above: float,
                      of_detection: bool = False) -> Pairs:
    """
    Find all pairs within a frame whose overlap is strictly above ``above``.

    :param rows: the ground truths to pair, int64 in rising order.
    :param above: least overlap, not below 0.
    :param of_detection: overlap is intersection over the detection's area, as the official program has
        it for DontCare regions; else intersection over union. No +1 in widths.
    """
    frames = np.searchsorted(truths.offsets, rows, side='right') - 1
    columns = np.ascontiguousarray(detections.boxes_xyxy.T)
    areas = (columns[2] - columns[0]) * (columns[3] - columns[1])
    boxes = truths.boxes_xyxy[rows]
    truth_areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    parts = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))]
    for local, found in frame_products(frames, detections.offsets):
        box = boxes[local]
        width = np.minimum(columns[2][found], box[:, 2]) - np.maximum(columns[0][found], box[:, 0])
        near = np.flatnonzero(width > 0)
        local, found, box, width = local[near], found[near], box[near], width[near]
        height = np.minimum(columns[3][found], box[:, 3]) - np.maximum(columns[1][found], box[:, 1])
        near = np.flatnonzero(height > 0)
        local, found = local[near], found[near]
        intersection = width[near] * height[near]
        area = areas[found]
        # Same order of operations as the official program, so that ties and limits fall the same way.
        overlap = intersection / (area if of_detection else area + truth_areas[local] - intersection)
        enough = overlap > above
        parts.append((rows[local[enough]], found[enough], overlap[enough]))
    return Pairs(*(np.concatenate(arrays) for arrays in zip(*parts)))


class FrameMatcher:
    """
    Greedy matching of ground truths, in file order, to detections for one class and difficulty.

    :param pairs: overlapping pairs, all above the class's IoU.
    :param truths: table of ground truths.
    :param truth_state: (N,) VALID, IGNORED or OTHER.
    :param detection_state: (M,) VALID, IGNORED or OTHER.
    :param scores: (M,) float64.
    :ivar truth_rows: (G,) int64: the ground truths that overlap any detection; all others stay unmatched.
    """

    def __init__(self, pairs: Pairs, truths: ObjectTable, truth_state: np.ndarray,
                 detection_state: np.ndarray, scores: np.ndarray):
        pairs = pairs.where((truth_state[pairs.truth] != OTHER) &
                            (detection_state[pairs.detection] != OTHER))
        frame = np.searchsorted(truths.offsets, pairs.truth, side='right') - 1
        new_truth = np.diff(pairs.truth, prepend=-1) != 0
        self.truth_rows = pairs.truth[new_truth]
        truth_of_pair = np.cumsum(new_truth) - 1
        # Rank: place of a ground truth among those of its frame that overlap anything. Ranks go in turn.
        truth_frame = frame[new_truth]
        first_of_frame = np.searchsorted(truth_frame, truth_frame)
        rank = (np.arange(len(truth_frame)) - first_of_frame)[truth_of_pair]
        order = np.argsort(rank, kind='stable')
        self._truth = truth_of_pair[order]
        self.detection_rows, inverse = np.unique(pairs.detection[order], return_inverse=True)
        self._detection = inverse.reshape(-1).astype(np.int32)
        self._score = scores[pairs.detection[order]]
        self._overlap = pairs.overlap[order]
        self._usable = detection_state[pairs.detection[order]] == VALID
        self._bounds = np.searchsorted(rank[order], np.arange(rank.max() + 2 if len(rank) else 1))

    def _run(self, key: np.ndarray, eligible: np.ndarray, matched: np.ndarray) -> None:
        """
        Give each ground truth the eligible, free detection of greatest key, the first among equals.

        :param key: (P,) float64 preference.
        :param eligible: (T, P) bool.
        :param matched: (T, G) int32 of -1, filled in place with indices into ``detection_rows``.
        """
        count = len(eligible)
        free = np.ones((count, len(self.detection_rows)), dtype=bool)
        line = np.arange(count)[:, None]
        for low, high in zip(self._bounds[:-1], self._bounds[1:]):
            truth = self._truth[low:high]
            detection = self._detection[low:high]
            start = np.flatnonzero(np.diff(truth, prepend=-1))
            able = eligible[:, low:high] & free[:, detection]
            if len(start) == high - low:  # one candidate each: no choice to make
                best, found = np.broadcast_to(detection, able.shape), able
            else:
                value = np.where(able, key[low:high], -np.inf)
                top = np.maximum.reduceat(value, start, axis=1)
                segment = np.cumsum(np.diff(truth, prepend=truth[0]) != 0)
                at_top = able & (value == top[:, segment])
                place = np.where(at_top, np.arange(high - low), high - low)
                first = np.minimum.reduceat(place, start, axis=1)
                found = first < high - low
                best = detection[np.minimum(first, high - low - 1)]
            matched[:, truth[start]] = np.where(found, best, -1)
            rows, columns = np.nonzero(found)
            free[line[rows, 0], best[rows, columns]] = False

    def match_by_score(self) -> np.ndarray:
        """
        Match by highest score, whether the detection is valid or ignored: the pass that collects scores.

        :return: (G,) int64 row of the detection matched to each of ``truth_rows``, -1 for none.
        """
        matched = np.full((1, len(self.truth_rows)), -1, dtype=np.int32)
        if len(self._score):
            self._run(self._score, (self._score > NO_DETECTION)[None], matched)
        return self._as_rows(matched[0])

    def match_at(self, thresholds: np.ndarray) -> Iterator[Tuple[slice, np.ndarray]]:
        """
        Match among the scores not below each threshold: the valid detection of highest IoU, or, only where
        there is none, the first ignored one.

        :param thresholds: (T,) float64.
        :return: blocks of (slice of the thresholds, (T', G) int64 matched detection rows or -1).
        """
        key = np.where(self._usable, self._overlap, 0.0)
        step = max(1, _BLOCK // max(1, len(self._score)))
        for first in range(0, len(thresholds), step):
            some = np.asarray(thresholds[first:first + step])[:, None]
            matched = np.full((len(some), len(self.truth_rows)), -1, dtype=np.int32)
            if len(self._score):
                self._run(key, self._score >= some, matched)
            yield slice(first, first + len(some)), self._as_rows(matched)

    def _as_rows(self, matched: np.ndarray) -> np.ndarray:
        return np.append(self.detection_rows, -1)[matched]
