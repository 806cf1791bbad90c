# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Boxes moved from one image of a camera to the next by the optical flow inside them.

Median flow (Kalal, Mikolajczyk, Matas: Forward-backward error, ICPR 2010): a grid of points in each box is
followed by pyramidal Lucas-Kanade, the box moves by their median displacement and grows by the median ratio
of their distances. Here all boxes share one call, one way, on a small grey image: the check backwards costs
as much again, and how well a point's patch is found (its residual) tells lost ones nearly as well.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

# Of the small image: a third of KITTI's 1242 px. On the drive of docs, 620 px were no better and slower.
LONG_SIDE_PX = 414
_GRID = 4               # points along each side of a box
_INNER = 0.8            # share of a side that they span: the border of a box is background
_WINDOW_PX, _LEVELS, _STEPS = 11, 3, 10
_LEAST_POINTS = 4
# A patch that differs by more grey levels a pixel was not found.
_MAX_RESIDUAL = 30.0
# Beyond this between two frames the estimate, not the object, has changed its size.
_MAX_GROWTH = 1.25
# Points of one object move together: their median distance from where they should be, in sides of the box.
_MAX_STRAY, _STRAY_PX = 0.08, 0.3
_LEAST_VISIBLE = 0.4    # share of a moved box that must lie inside the image
_THUMBNAIL_WH = (32, 12)
_CUT_CORRELATION = 0.4

_sides = ((np.arange(_GRID) / (_GRID - 1)) - 0.5) * _INNER
_UNIT = np.stack(np.meshgrid(_sides, _sides), axis=-1).reshape(-1, 2)
_FIRST, _SECOND = np.triu_indices(_GRID * _GRID, 1)


class FlowImage(NamedTuple):
    """
    What is kept of an image to follow boxes through it.

    :param grey: (h, w) uint8, the small image. :param image_hw: (height, width) px of the full one.
    """

    grey: np.ndarray
    image_hw: tuple[int, int]


def flow_image(image: np.ndarray, long_side_px: int = LONG_SIDE_PX,
               image_hw: tuple[int, int] | None = None) -> FlowImage:
    """
    Reduce an image.

    :param image: (H, W, 3) BGR or (H, W) grey, uint8.
    :param image_hw: of the camera's image, where `image` is a reduced one already; None: `image`'s own.
    :raises ValueError: no such image.
    """
    if image.dtype != np.uint8 or not image.size or not (
            image.ndim == 2 or image.ndim == 3 and image.shape[2] == 3):
        raise ValueError(f'expected (H, W, 3) or (H, W) uint8, got {image.shape} {image.dtype}')
    height, width = image.shape[:2]
    factor = max(height, width) / long_side_px
    small = image
    if factor > 1:
        size = max(1, round(width / factor)), max(1, round(height / factor))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if small.ndim == 3:
        small = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    elif small is image:
        small = image.copy()    # the caller's buffer may be gone before the next frame comes
    return FlowImage(small, (height, width) if image_hw is None else image_hw)


def move_boxes(before: FlowImage, after: FlowImage,
               boxes_xyxy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Move boxes from one image to another of the same size.

    :param boxes_xyxy: (N, 4) px of the full image.
    :return: boxes (N, 4) float64, not clipped to the image, and found (N,) bool. One that is not found has
        too few points that could be followed, or has left the image; its box says nothing.
    :raises ValueError: the images differ in size.
    """
    if before.grey.shape != after.grey.shape or before.image_hw != after.image_hw:
        raise ValueError(f'images of {before.image_hw} and {after.image_hw}: expected one size')
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    if not len(boxes):
        return boxes, np.zeros(0, dtype=bool)
    height, width = after.grey.shape
    scale = np.array([width / after.image_hw[1], height / after.image_hw[0]] * 2)
    small = boxes * scale
    centres, sizes = (small[:, :2] + small[:, 2:]) / 2, small[:, 2:] - small[:, :2]
    points = centres[:, None] + _UNIT * sizes[:, None]                      # (N, P, 2)
    moved, status, residual = cv2.calcOpticalFlowPyrLK(  # type: ignore[call-overload]
        before.grey, after.grey, points.reshape(-1, 1, 2).astype(np.float32), None,
        winSize=(_WINDOW_PX, _WINDOW_PX), maxLevel=_LEVELS,
        criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, _STEPS, 0.03), minEigThreshold=1e-3)
    moved = moved.reshape(points.shape).astype(np.float64)
    known = status.reshape(points.shape[:2]).astype(bool) & np.isfinite(moved).all(axis=2)
    known &= residual.reshape(known.shape) <= _MAX_RESIDUAL
    known &= ((points >= 0) & (points < (width, height))).all(axis=2)
    moved = np.where(known[..., None], moved, points)
    found = np.count_nonzero(known, axis=1) >= _LEAST_POINTS
    step = np.stack([_median(moved[..., axis] - points[..., axis], known) for axis in (0, 1)], axis=1)
    growth = np.clip(_growth(points, moved, known), 1 / _MAX_GROWTH, _MAX_GROWTH)
    strays = np.linalg.norm(
        moved - (centres + step)[:, None] - growth[:, None, None] * (points - centres[:, None]), axis=2)
    found &= _median(strays, known) <= _MAX_STRAY * sizes.max(axis=1) + _STRAY_PX
    half = sizes * growth[:, None] / 2
    result = np.concatenate([centres + step - half, centres + step + half], axis=1)
    return result / scale, found & _visible(result, (height, width))


def _growth(points: np.ndarray, moved: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return by how much the distances between the points of each box grew, (N,)."""
    apart, now = (np.linalg.norm(p[:, _FIRST] - p[:, _SECOND], axis=2) for p in (points, moved))
    pairs = known[:, _FIRST] & known[:, _SECOND] & (apart > 0)
    return _median(now / np.maximum(apart, 1e-9), pairs, otherwise=1.0)


def _median(values: np.ndarray, known: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
    """Return the median of each row's known values; np.nanmedian takes ten times as long."""
    count = np.count_nonzero(known, axis=1)
    ordered = np.sort(np.where(known, values, np.inf), axis=1)
    rows = np.arange(len(ordered))
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, values.shape[1] - 1)
    with np.errstate(invalid='ignore'):
        middle = (ordered[rows, low] + ordered[rows, high]) / 2
    return np.where(count > 0, middle, otherwise)


def _visible(boxes: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    inside = np.clip(boxes, 0, [image_hw[1], image_hw[0]] * 2)
    area, left = (np.prod(part[:, 2:] - part[:, :2], axis=1) for part in (boxes, inside))
    return (left > 0) & (left >= _LEAST_VISIBLE * area)


def is_cut(before: FlowImage, after: FlowImage) -> bool:
    """
    Return whether the scene has changed between two images: nothing of the first is to be found again.

    The correlation of thumbnails: at least 0.8 between neighbours of a drive at 10 Hz, about 0 between
    others. An image without contrast shows no scene and no change of it.
    """
    first, second = (cv2.resize(view.grey, _THUMBNAIL_WH, interpolation=cv2.INTER_AREA).astype(np.float64)
                     for view in (before, after))
    spread = first.std() * second.std()
    if spread == 0:
        return False
    return float(((first - first.mean()) * (second - second.mean())).mean() / spread) < _CUT_CORRELATION
