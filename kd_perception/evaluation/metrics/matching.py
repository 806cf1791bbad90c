# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The matching of the KITTI object development kit, over all frames and score thresholds at once.

The official program (evaluate_object.cpp, `computeStatistics`) walks over frames, ground truths and
detections in file order. Only the order inside a frame matters, so that here the n-th ground truth of
every frame is matched at the same time, and only against detections that overlap enough.
"""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
import functools
from typing import NamedTuple

import numpy as np

from kd_perception.labels.object_table import ObjectTable

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
                   offsets: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
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


class _Rank(NamedTuple):
    """The n-th ground truth of every frame (G'), and its pairs (P'), best first."""

    truth: np.ndarray
    start: np.ndarray
    detection: np.ndarray
    score: np.ndarray


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
        self._truth_frame = frame[new_truth]
        self.detection_rows, inverse = np.unique(pairs.detection, return_inverse=True)
        self._truth = truth_of_pair
        self._detection = inverse.reshape(-1).astype(np.int32)
        self._score = scores[pairs.detection]
        self._overlap = pairs.overlap
        self._usable = detection_state[pairs.detection] == VALID
        # Pairs in which neither side has another partner need no order: on most sets that is most of them.
        self._alone = (np.bincount(self._truth)[self._truth] == 1) & (
            np.bincount(self._detection)[self._detection] == 1)

    def _ranks(self, key: np.ndarray) -> list[_Rank]:
        """Group the pairs that are not alone by their ground truth's place in its frame, best key first."""
        pairs = np.flatnonzero(~self._alone)
        truths, truth_of_pair = np.unique(self._truth[pairs], return_inverse=True)
        frames = self._truth_frame[truths]
        place = (np.arange(len(truths)) - np.searchsorted(frames, frames))[truth_of_pair.reshape(-1)]
        pairs = pairs[np.lexsort((-key[pairs], self._truth[pairs], place))]
        bounds = np.searchsorted(np.sort(place), np.arange(place.max() + 2 if len(place) else 1))
        ranks = []
        for low, high in zip(bounds[:-1], bounds[1:]):
            mine = pairs[low:high]
            start = np.flatnonzero(np.diff(self._truth[mine], prepend=-1))
            ranks.append(_Rank(self._truth[mine[start]], start, self._detection[mine], self._score[mine]))
        return ranks

    def _run(self, ranks: Sequence[_Rank], eligible: Callable[[np.ndarray], np.ndarray],
             matched: np.ndarray) -> None:
        """
        Give each ground truth its first eligible, free detection.

        :param eligible: tells for scores (P,) whether they count: (T, P) bool.
        :param matched: (T, G) int32 of -1, filled in place with indices into ``detection_rows``.
        """
        alone = np.flatnonzero(self._alone)
        matched[:, self._truth[alone]] = np.where(eligible(self._score[alone]), self._detection[alone], -1)
        free = np.ones((len(matched), len(self.detection_rows)), dtype=bool)
        for rank in ranks:
            count = len(rank.detection)
            able = eligible(rank.score) & free[:, rank.detection]
            place = np.where(able, np.arange(count, dtype=np.int32), np.int32(count))
            first = np.minimum.reduceat(place, rank.start, axis=1)
            best = np.append(rank.detection, np.int32(-1))[first]
            matched[:, rank.truth] = best
            rows, columns = np.nonzero(best >= 0)
            free[rows, best[rows, columns]] = False

    def match_by_score(self) -> np.ndarray:
        """
        Match by highest score, whether the detection is valid or ignored: the pass that collects scores.

        :return: (G,) int64 row of the detection matched to each of ``truth_rows``, -1 for none.
        """
        matched = np.full((1, len(self.truth_rows)), -1, dtype=np.int32)
        self._run(self._ranks(self._score), lambda scores: (scores > NO_DETECTION)[None], matched)
        return self._as_rows(matched[0])

    def match_at(self, thresholds: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """
        Match among the scores not below each threshold.

        To the valid detection of highest IoU or, only where there is none, to the first ignored one.

        :param thresholds: (T,) float64.
        :return: blocks of (slice of the thresholds, (T', G) int64 matched detection rows or -1).
        """
        ranks = self._ranks(np.where(self._usable, self._overlap, 0.0))
        step = max(1, _BLOCK // max(1, len(self._score)))
        for first in range(0, len(thresholds), step):
            some = np.asarray(thresholds[first:first + step])[:, None]
            matched = np.full((len(some), len(self.truth_rows)), -1, dtype=np.int32)
            self._run(ranks, functools.partial(np.less_equal, some), matched)
            yield slice(first, first + len(some)), self._as_rows(matched)

    def _as_rows(self, matched: np.ndarray) -> np.ndarray:
        return np.append(self.detection_rows, -1)[matched]
