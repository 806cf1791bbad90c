# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Greedy non-maximum suppression."""

from __future__ import annotations

import numpy as np

from kd_perception.boxes.overlap import box_iou

# A head emits thousands of candidates only when its threshold is very low; the best this many are enough
# for any `max_detections` in use.
MAX_CANDIDATES = 1024
_BLOCK = 64


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
    left = np.arange(len(order))
    kept: list[int] = []
    # The best of what is left, a block at a time: the whole matrix would cost 30 ms for a thousand
    # candidates, a call for each kept box 6 ms for a hundred of them.
    while len(kept) < max_detections and len(left):
        block, left = left[:_BLOCK], left[_BLOCK:]
        clash = _clash(boxes, classes, block, block, iou_threshold)
        dropped, chosen = np.zeros(len(block), dtype=bool), []
        for i in range(len(block)):
            if not dropped[i]:
                chosen.append(block[i])
                dropped |= clash[i]
        kept += chosen
        if len(left):
            left = left[~_clash(boxes, classes, np.array(chosen), left, iou_threshold).any(axis=0)]
    return order[kept[:max_detections]].astype(np.int64)


def _clash(boxes: np.ndarray, classes: np.ndarray, first: np.ndarray, second: np.ndarray,
           iou_threshold: float) -> np.ndarray:
    """Return (len(first), len(second)) bool: of one class, and overlapping beyond the threshold."""
    return (box_iou(boxes[first], boxes[second]) > iou_threshold) & (
        classes[first][:, None] == classes[second][None, :])
