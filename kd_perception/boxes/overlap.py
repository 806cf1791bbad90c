# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Axis-aligned boxes.

Everywhere in this package a set of boxes is an array (N, 4) of `x_min, y_min, x_max, y_max` in
pixels, in continuous coordinates: the first pixel covers [0, 1), so a width is `x_max - x_min`
with no +1 (as in the KITTI development kit).
"""

from __future__ import annotations

import numpy as np


def box_area(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Areas (N,) in px²; an inverted box has area 0."""
    boxes = np.asarray(boxes_xyxy)
    return np.clip(boxes[:, 2] - boxes[:, 0], 0, None) * np.clip(boxes[:, 3] - boxes[:, 1], 0, None)


def box_intersection(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """Intersection areas (N, M) in px² of boxes (N, 4) with boxes (M, 4)."""
    a, b = np.asarray(a_xyxy), np.asarray(b_xyxy)
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    return np.clip(width, 0, None) * np.clip(height, 0, None)


def box_iou(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """Intersection over union (N, M), in [0, 1]; 0 where the union is empty."""
    intersection = box_intersection(a_xyxy, b_xyxy)
    union = box_area(a_xyxy)[:, None] + box_area(b_xyxy)[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def class_iou(a_xyxy: np.ndarray, a_classes: np.ndarray, b_xyxy: np.ndarray, b_classes: np.ndarray
              ) -> np.ndarray:
    """`box_iou` (N, M) of boxes with class ids (N,) and (M,); 0 for two of different classes."""
    iou = box_iou(a_xyxy, b_xyxy)
    iou[a_classes[:, None] != b_classes[None, :]] = 0
    return iou


def matched_columns(iou: np.ndarray, min_iou: float) -> np.ndarray:
    """Pair rows and columns of (N, M) one to one, greatest overlaps first: each row's column (N,), or -1."""
    chosen = np.full(iou.shape[0], -1)
    taken = np.zeros(iou.shape[1], dtype=bool)
    rows, columns = np.nonzero(iou >= min_iou)
    for i in np.argsort(-iou[rows, columns], kind='stable'):
        if chosen[rows[i]] < 0 and not taken[columns[i]]:
            chosen[rows[i]], taken[columns[i]] = columns[i], True
    return chosen


def box_intersection_over_area(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """
    Intersection over the area of `a` (N, M), in [0, 1]; 0 where that area is 0.

    The overlap that KITTI uses for DontCare regions and the Caltech toolbox for ignored ones,
    with the detections as `a`.
    """
    intersection = box_intersection(a_xyxy, b_xyxy)
    area = np.broadcast_to(box_area(a_xyxy)[:, None], intersection.shape)
    return np.divide(intersection, area, out=np.zeros_like(intersection), where=area > 0)


def clip_boxes(boxes_xyxy: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """A copy of boxes (N, 4) limited to an image of `(height, width)` px."""
    height, width = image_hw
    limit = np.array([width, height, width, height], dtype=np.asarray(boxes_xyxy).dtype)
    return np.clip(boxes_xyxy, 0, limit)
