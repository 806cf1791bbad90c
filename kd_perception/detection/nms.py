# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Greedy non-maximum suppression."""

from __future__ import annotations

import numpy as np

from kd_perception.detection.boxes import box_iou

# A head emits thousands of candidates only when its threshold is very low; the best this many are enough
# for any `max_detections` in use.
MAX_CANDIDATES = 1024


def nms(boxes_xyxy: np.ndarray, scores: np.ndarray, class_ids: np.ndarray, iou_threshold: float,
        max_detections: int, max_candidates: int = MAX_CANDIDATES) -> np.ndarray:
    """
    Keep the best of each group of overlapping boxes of the same class.

    Boxes of different classes never suppress each other. A box is dropped when its IoU with a kept
    box of its class is strictly above `iou_threshold`.

    :param boxes_xyxy: (N, 4) px; `scores`: (N,); `class_ids`: (N,) integers.
    :param max_candidates: only the best this many enter, which bounds time and memory.
    :return: indices (K,) int64 of the kept boxes in descending score (ties: input order),
        K <= max_detections.
    """
    order = np.argsort(-np.asarray(scores), kind='stable')[:max_candidates]
    if len(order) == 0 or max_detections <= 0:
        return np.zeros(0, dtype=np.int64)
    boxes = np.asarray(boxes_xyxy, dtype=np.float64)[order]
    classes = np.asarray(class_ids)[order]
    alive = np.ones(len(order), dtype=bool)
    kept = []
    while len(kept) < max_detections and alive.any():
        best = int(alive.argmax())
        kept.append(best)
        alive[best] = False
        # One row for each kept box: the whole matrix would cost 30 ms for a thousand candidates.
        alive &= (box_iou(boxes[best:best + 1], boxes)[0] <= iou_threshold) | (classes != classes[best])
    return order[kept].astype(np.int64)
