# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Log-average miss rate as the Caltech pedestrian toolbox computes it.

Source: Dollár, Wojek, Schiele, Perona, "Pedestrian detection: an evaluation of the state of the art", PAMI
2012, and its toolbox (bbGt.m `evalRes`, `compOas`, `compRoc`; dbEval.m).
"""
from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np

from kd_perception.errors import EvaluationError
from kd_perception.evaluation.metrics.bootstrap import percentile_interval, resampled_weights
from kd_perception.evaluation.metrics.matching import frame_products
from kd_perception.labels.object_table import ObjectTable

# Python's power, not numpy's: numpy 1.26 makes 10^-1 a little less than 0.1, and a curve that has a point at
# exactly 0.1 would lose it.
REFERENCE_FPPI = np.array([10.0 ** (quarter / 4) for quarter in range(-8, 1)])
# dbEval.m: exp(mean(log(max(1e-10, miss)))).
MISS_FLOOR = 1e-10
# dbEval.m: all boxes get the aspect ratio of a standing pedestrian, and detections count within a factor
# of 1.25 of the heights under evaluation.
ASPECT_RATIO = 0.41
HEIGHT_SLACK = 1.25
# dbEval.m: Caltech ground truth closer to the border than this is ignored ([5 5 635 475] of 640 x 480).
BORDER_PX = 5.0
# KITTI gives levels, Caltech the visible share. Middle of what each level stands for: fully visible, partly
# occluded (under 35 % hidden in Caltech's terms), largely occluded (35 to 80 %); 3 is unknown. Label sets
# that give no occlusion have -1, which KITTI's own rule lets pass at every difficulty.
VISIBLE_SHARE = {-1: 1.0, 0: 1.0, 1: 0.8, 2: 0.4}


@dataclass(frozen=True)
class MissRate:
    """
    Miss rate against false positives per image (FPPI).

    :ivar lamr: log-average miss rate, 0 to 1 (floor 1e-10); NaN where no ground truth counts.
    :ivar recall_at_fppi: (9,) float64 recall at 10^-2, 10^-1.75, ... 1 FPPI.
    :ivar fppi, miss: (K,) the curve, one point a detection, in falling score order.
    :ivar valid_ground_truths: ground truths that count.
    :ivar frames: number of frames.
    :ivar ci95: bootstrap 95 % interval of ``lamr``, or None.
    :ivar resampled: ``lamr`` of each resample, NaN for one without ground truths, or None.
    """

    lamr: float
    recall_at_fppi: np.ndarray
    fppi: np.ndarray
    miss: np.ndarray
    valid_ground_truths: int
    frames: int
    ci95: tuple[float, float] | None = None
    resampled: np.ndarray | None = None


@dataclass(frozen=True)
class CaltechSubset:
    """
    A subset of pedestrians: heights [px] and visible shares, limits included.

    Ground truth outside is ignored: it is no miss, and a detection on it no false alarm.
    """

    name: str
    min_height_px: float
    min_visible: float
    max_visible: float = math.inf
    max_height_px: float = math.inf


CALTECH_SUBSETS = (CaltechSubset('reasonable', 50, 0.65), CaltechSubset('all', 20, 0.2),
                   CaltechSubset('heavy', 50, 0.2, 0.65))


@dataclass(frozen=True)
class _Flat:
    """Frames one after another: rows (N, 5) and where each frame begins (F + 1,)."""

    rows: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, frames: Sequence[np.ndarray], what: str) -> '_Flat':
        arrays = []
        for i, frame in enumerate(frames):
            rows = np.asarray(frame, dtype=np.float64)
            if rows.size % 5 or (rows.size and (rows.ndim != 2 or rows.shape[1] != 5)):
                raise EvaluationError(f'frame {i}: {what} have shape {rows.shape}, (N, 5) expected')
            rows = rows.reshape(-1, 5)
            if not np.isfinite(rows).all() or (rows[:, 2:4] < 0).any():
                raise EvaluationError(f'frame {i}: {what} hold a value that is not finite, '
                                      'or a negative size')
            arrays.append(rows)
        counts = [len(rows) for rows in arrays]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(np.concatenate([np.zeros((0, 5))] + arrays), offsets)

    @property
    def frame_ids(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def sorted_by(self, key: np.ndarray) -> '_Flat':
        """Sort the rows of each frame by a rising key; equal keys keep their order."""
        return _Flat(self.rows[np.lexsort((key, self.frame_ids))], self.offsets)


def _match(truths: _Flat, found: _Flat, iou_threshold: float) -> np.ndarray:
    """
    Return (M,) int8 for detections sorted by score: 1 true positive, 0 false positive, -1 ignored.

    Each detection in turn takes the free ground truth of highest IoU, the last among equals, else the first
    ignored one; an ignored one may be taken again (`evalRes`).
    """
    boxes, areas = truths.rows[:, :4], truths.rows[:, 2] * truths.rows[:, 3]
    ends = boxes[:, :2] + boxes[:, 2:]
    found_boxes, found_areas = found.rows[:, :4], found.rows[:, 2] * found.rows[:, 3]
    found_ends = found_boxes[:, :2] + found_boxes[:, 2:]
    ignored = truths.rows[:, 4] != 0
    # Detection, ground truth: the reverse of the order in which pairs are made.
    candidates: dict[int, list[tuple[int, float]]] = {}
    for i, j in frame_products(truths.frame_ids, found.offsets):
        width = np.minimum(ends[i, 0], found_ends[j, 0]) - np.maximum(boxes[i, 0], found_boxes[j, 0])
        height = np.minimum(ends[i, 1], found_ends[j, 1]) - np.maximum(boxes[i, 1], found_boxes[j, 1])
        near = np.flatnonzero((width > 0) & (height > 0))
        i, j, intersection = i[near], j[near], width[near] * height[near]
        union = found_areas[j] + areas[i] - intersection
        overlap = intersection / np.where(ignored[i], found_areas[j], union)
        for k in np.flatnonzero(overlap >= iou_threshold):
            candidates.setdefault(int(j[k]), []).append((int(i[k]), float(overlap[k])))
    state = np.zeros(len(found.rows), dtype=np.int8)
    taken = set()
    for detection in sorted(candidates):
        best, best_overlap = -1, iou_threshold
        for truth, overlap in candidates[detection]:  # ground truth of a frame: ignored ones last
            if truth in taken:
                continue
            if ignored[truth]:
                if best < 0:
                    state[detection] = -1
                break
            if overlap >= best_overlap:
                best, best_overlap = truth, overlap
        if best >= 0:
            taken.add(best)
            state[detection] = 1
    return state


def _recall_at(fppi: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Recall (9,) at the last point not above each reference, 0 where there is none (`compRoc`)."""
    # False positives never fall along the curve, so the last such point is the last one before a larger one.
    place = np.searchsorted(fppi, REFERENCE_FPPI, side='right')
    return np.concatenate([[0.0], recall])[place]


def _log_average(recall: np.ndarray) -> float:
    return float(np.exp(np.mean(np.log(np.maximum(MISS_FLOOR, 1.0 - recall)))))


def _resampled(order_frames: np.ndarray, hit: np.ndarray, truths_of: np.ndarray, frames_of: np.ndarray,
               count: int, seed: int) -> np.ndarray | None:
    """Bootstrap: matching is done within frames, so a resample only weighs the points of the curve."""
    groups = len(truths_of)
    if groups < 2 or not truths_of.any():
        return None
    # Points far beyond one false positive per image cannot matter, not even with frames drawn often.
    limit = np.searchsorted(np.cumsum(~hit), 3 * frames_of.sum() + 1000)
    order_frames, hit = order_frames[:limit], hit[:limit]
    values = np.full(count, np.nan)
    for i, weights in enumerate(resampled_weights(groups, count, seed)):
        truths, frames = float(weights @ truths_of), float(weights @ frames_of)
        if truths > 0:
            weight = weights[order_frames].astype(np.float64)
            recall = np.cumsum(weight * hit) / truths
            values[i] = _log_average(_recall_at(np.cumsum(weight * ~hit) / frames, recall))
    return values


def log_average_miss_rate(frames: Sequence[tuple[np.ndarray, np.ndarray]], iou_threshold: float = 0.5,
                          bootstrap: int = 0, groups: np.ndarray | None = None, seed: int = 0) -> MissRate:
    """
    Match and average as the Caltech toolbox does, on boxes that are already filtered and resized.

    :param frames: one pair a frame: ground truth (N, 5) x, y, width, height [px], ignore (0 or 1);
        detections (M, 5) x, y, width, height [px], score. Either may be empty.
    :param iou_threshold: least IoU of a match, included; for ignored ground truth intersection over the
        detection's area counts instead.
    :param bootstrap: resamples for ``ci95``, 0 for none; by frame, or whole ``groups`` (F,) of frames.
    :raises EvaluationError: an array of another shape, or with a value that is not finite.
    """
    truths = _Flat.of([frame[0] for frame in frames], 'ground truths')
    found = _Flat.of([frame[1] for frame in frames], 'detections')
    truths = truths.sorted_by(truths.rows[:, 4] != 0)
    found = found.sorted_by(-found.rows[:, 4])
    state = _match(truths, found, iou_threshold)
    counted = state >= 0
    order = np.flatnonzero(counted)[np.argsort(-found.rows[counted, 4], kind='stable')]
    hit = state[order] == 1
    valid = truths.rows[:, 4] == 0
    total = int(valid.sum())
    fppi = np.cumsum(~hit) / max(1, len(frames))
    recall = np.cumsum(hit) / total if total else np.zeros(len(order))
    at_reference = _recall_at(fppi, recall)
    group = np.arange(len(frames)) if groups is None else np.asarray(groups)
    resampled = None
    if bootstrap and total:
        count = int(group.max()) + 1
        resampled = _resampled(group[found.frame_ids[order]], hit,
                               np.bincount(group[truths.frame_ids[valid]], minlength=count),
                               np.bincount(group, minlength=count), bootstrap, seed)
    interval = None if resampled is None else percentile_interval(resampled)
    lamr = _log_average(at_reference) if total else math.nan
    return MissRate(lamr, at_reference, fppi, 1.0 - recall, total, len(frames), interval, resampled)


def visible_share(occlusion: np.ndarray, truncation: np.ndarray) -> np.ndarray:
    """
    Estimate the visible share of objects (N,) from KITTI's occlusion level and truncated share.

    :return: (N,) float64 in 0 to 1; 0 for level 3 (unknown), so that the object is ignored; an object whose
        label gives no level (-1) is taken as visible.
    """
    level = np.zeros(len(occlusion))
    for value, share in VISIBLE_SHARE.items():
        level[np.asarray(occlusion) == value] = share
    return level * (1.0 - np.clip(truncation, 0.0, 1.0))


def _with_aspect(boxes_xywh: np.ndarray) -> np.ndarray:
    """Set widths to 0.41 times the height, about the same centre."""
    out = boxes_xywh.copy()
    out[:, 2] = ASPECT_RATIO * boxes_xywh[:, 3]
    out[:, 0] = boxes_xywh[:, 0] + (boxes_xywh[:, 2] - out[:, 2]) / 2
    return out


def _as_xywh(boxes_xyxy: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], axis=1)


def caltech_frames(labels: ObjectTable, detections: ObjectTable, subset: CaltechSubset,
                   person: str = 'Pedestrian', ignored: Sequence[str] = ('Person_sitting', 'DontCare'),
                   image_hw: np.ndarray | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """
    Prepare KITTI-style labels for `log_average_miss_rate`.

    :param person: the class under evaluation; only its detections are used.
    :param ignored: ground truth of these types is always ignored.
    :param image_hw: (F, 2) height and width of the images [px]; ground truth within 5 px of the border is
        then ignored as in the toolbox. None: that rule is left out.
    """
    rows = np.flatnonzero(labels.is_type([person, *ignored]))
    boxes = _as_xywh(labels.boxes_xyxy[rows])
    height = boxes[:, 3]
    share = visible_share(labels.occlusion[rows], labels.truncation[rows])
    ignore = labels.is_type(ignored)[rows]
    ignore |= (height < subset.min_height_px) | (height > subset.max_height_px)
    ignore |= (share < subset.min_visible) | (share > subset.max_visible)
    frame = np.searchsorted(labels.offsets, rows, side='right') - 1
    if image_hw is not None:
        size = np.asarray(image_hw, dtype=np.float64)[frame][:, ::-1]
        box = labels.boxes_xyxy[rows]
        ignore |= (box[:, :2] < BORDER_PX).any(axis=1) | (box[:, 2:] > size - BORDER_PX).any(axis=1)
    boxes = np.where(ignore[:, None], boxes, _with_aspect(boxes))
    truths = np.concatenate([boxes, ignore[:, None].astype(np.float64)], axis=1)
    found = np.flatnonzero(detections.is_type([person]))
    found_boxes = _with_aspect(_as_xywh(detections.boxes_xyxy[found]))
    keep = (found_boxes[:, 3] >= subset.min_height_px / HEIGHT_SLACK) & (
        found_boxes[:, 3] < subset.max_height_px * HEIGHT_SLACK)
    found_frame = (np.searchsorted(detections.offsets, found, side='right') - 1)[keep]
    scored = np.concatenate([found_boxes, detections.scores[found][:, None]], axis=1)[keep]
    frames = np.arange(len(labels.frames) + 1)
    at, found_at = np.searchsorted(frame, frames), np.searchsorted(found_frame, frames)
    return [(truths[at[i]:at[i + 1]], scored[found_at[i]:found_at[i + 1]]) for i in frames[:-1]]
