# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Ids that a detection keeps from frame to frame.

Association as in SORT (Bewley et al., ICIP 2016), with a smoothed velocity in place of the Kalman filter and
greedy choice by IoU in place of the Hungarian method: at the rate of a camera the best match is nearly always
the only one. The libraries for this were weighed: motpy, trackers and supervision bring SciPy and more for
it, norfair wants numpy 1; none has a rosdep key.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.boxes.overlap import class_iou, matched_columns

_NEW_SHARE = 0.5        # of a velocity just measured, against the one before


@dataclasses.dataclass(frozen=True)
class TrackSettings:
    """
    When two boxes are one object.

    :param min_iou: least overlap of a box with where the track of its class is expected.
    :param max_missed: a track ends after so many frames in a row without its object.
    :param max_gap_ns: frames further apart, by stamp, start new tracks.
    """

    min_iou: float = 0.3
    max_missed: int = 5
    max_gap_ns: int = 1_000_000_000

    def __post_init__(self):
        """Check ranges."""
        if not 0 < self.min_iou <= 1 or not 0 <= self.max_missed <= 1000 or self.max_gap_ns <= 0:
            raise ValueError('min_iou must be in (0, 1], max_missed in 0..1000, max_gap_ns positive')


class Tracks:
    """
    The tracks of one camera. Not thread-safe. Ids are 1, 2, 3 ..., and none is given twice.

    Memory: the boxes of the last `max_missed` + 1 frames.
    """

    def __init__(self, settings: TrackSettings = TrackSettings()):
        """Start without tracks."""
        self.settings = settings
        self._next_id = 1
        self._stamp_ns: int | None = None
        self.reset()

    def reset(self) -> None:
        """End all tracks; ids go on."""
        self._ids, self._class_ids = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        self._boxes, self._speed = np.zeros((0, 4)), np.zeros((0, 4))       # px, px/s of each edge
        self._seen_ns = np.zeros(0, dtype=np.int64)
        self._missed = np.zeros(0, dtype=np.int64)

    def assign(self, detections: Detections, stamp_ns: int) -> np.ndarray:
        """
        Return the track ids (N,) int64 of a frame's detections.

        :param stamp_ns: of the image; one that is not after the last frame's (a bag looped, a clock
            stepped), or too far from it, ends all tracks.
        """
        if self._stamp_ns is None or not 0 < stamp_ns - self._stamp_ns <= self.settings.max_gap_ns:
            self.reset()
        self._stamp_ns = stamp_ns
        boxes = detections.boxes_xyxy.astype(np.float64)
        chosen = self._match(boxes, detections.class_ids, stamp_ns)
        ids, speed = np.zeros(len(boxes), dtype=np.int64), np.zeros((len(boxes), 4))
        known = chosen >= 0
        tracks = chosen[known]
        ids[known] = self._ids[tracks]
        ids[~known] = self._next_id + np.arange(np.count_nonzero(~known))
        self._next_id += int(np.count_nonzero(~known))
        elapsed_s = (stamp_ns - self._seen_ns[tracks])[:, None] / 1e9
        measured = (boxes[known] - self._boxes[tracks]) / elapsed_s
        speed[known] = np.where((self._speed[tracks] == 0).all(axis=1, keepdims=True), measured,
                                _NEW_SHARE * measured + (1 - _NEW_SHARE) * self._speed[tracks])
        self._keep(np.setdiff1d(np.arange(len(self._ids)), tracks))
        self._ids = np.concatenate([self._ids, ids])
        self._class_ids = np.concatenate([self._class_ids, detections.class_ids])
        self._boxes, self._speed = np.concatenate([self._boxes, boxes]), np.concatenate([self._speed, speed])
        self._seen_ns = np.concatenate([self._seen_ns, np.full(len(boxes), stamp_ns)])
        self._missed = np.concatenate([self._missed, np.zeros(len(boxes), dtype=np.int64)])
        return ids

    def _match(self, boxes: np.ndarray, class_ids: np.ndarray, stamp_ns: int) -> np.ndarray:
        """Return the index of each box's track, (N,), -1 for none; the greatest overlaps first."""
        expected = self._boxes + self._speed * (stamp_ns - self._seen_ns)[:, None] / 1e9
        return matched_columns(class_iou(boxes, class_ids, expected, self._class_ids), self.settings.min_iou)

    def _keep(self, index: np.ndarray) -> None:
        """Keep only the tracks of `index`, which this frame has missed, as long as they may be."""
        index = index[self._missed[index] < self.settings.max_missed]
        self._ids, self._class_ids = self._ids[index], self._class_ids[index]
        self._boxes, self._speed = self._boxes[index], self._speed[index]
        self._seen_ns, self._missed = self._seen_ns[index], self._missed[index] + 1
