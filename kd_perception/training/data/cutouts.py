# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
People and riders cut out of training images, and pasted small into others.

Small objects are few, and each is seen in one place only. Copies of larger ones, shrunk and laid
over other scenes, give many more: 'copy-paste' (Kisantal et al., 'Augmentation for small object
detection', 2019; Ghiasi et al., 'Simple Copy-Paste', CVPR 2021). Boxes are turned into outlines by
GrabCut (Rother et al., SIGGRAPH 2004).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import dataclasses

import cv2
import numpy as np

from kd_perception.boxes.overlap import box_intersection_over_area
from kd_perception.training.data.targets import Targets
from kd_perception.training.settings.run import PasteSettings

_STORED_HEIGHT_PX = 128     # more than any copy is tall
_BORDER_PX = 2.0            # an object nearer to the image's border may be cut
_CONTEXT = 0.25             # of the box, around it: what GrabCut takes for background
_FILLED = (0.25, 0.9)       # share of its box that a believable outline fills
_ROUNDS = 4
_COVERED = 0.3              # a copy hides at most this share of another object
_TRIES = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Cutout:
    """
    One object without its background.

    :param bgr: (h, w, 3) uint8; `alpha`: (h, w) float32, 0 to 1, 1 inside.
    """

    class_id: int
    bgr: np.ndarray
    alpha: np.ndarray


def cut_out(image: np.ndarray, box: np.ndarray, class_id: int) -> Cutout | None:
    """
    Separate the object in a box from its background.

    :param image: (H, W, 3) uint8 BGR; `box`: (4,) xyxy px, inside the image.
    :return: None where no believable outline is found.
    """
    size = box[2:] - box[:2]
    around = np.concatenate([box[:2] - _CONTEXT * size, box[2:] + _CONTEXT * size])
    limit = np.array([image.shape[1], image.shape[0]] * 2)
    x0, y0, x1, y1 = np.clip(np.round(around), 0, limit).astype(int)
    scale = min(1.0, _STORED_HEIGHT_PX / size[1])
    patch = image[y0:y1, x0:x1]
    patch = cv2.resize(patch, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    left, top, right, bottom = np.round((box - [x0, y0, x0, y0]) * scale).astype(int)
    if right - left < 6 or bottom - top < 12:
        return None
    mask = np.zeros(patch.shape[:2], np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)   # GrabCut's clustering draws from OpenCV's global generator
    try:
        inner = int(left), int(top), int(right - left), int(bottom - top)
        cv2.grabCut(patch, mask, inner, *models, _ROUNDS, cv2.GC_INIT_WITH_RECT)
    except cv2.error:   # a patch of one colour
        return None
    inside = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD))[top:bottom, left:right]
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not _FILLED[0] <= inside.mean() <= _FILLED[1] or len(rows) < 0.9 * len(inside) or (
            len(columns) < 0.8 * inside.shape[1]):
        return None
    alpha = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 0.8)
    return Cutout(class_id, np.ascontiguousarray(patch[top:bottom, left:right]), alpha)


def collect(images: Iterable[tuple[Callable[[], np.ndarray], Targets]], class_ids: Sequence[int],
            settings: PasteSettings) -> list[Cutout]:
    """
    Cut the wanted classes' large, whole, unhidden objects out of images.

    :param images: a reader of (H, W, 3) uint8 BGR and targets in its px, for each image; it is read
        only where the targets hold something of use.
    """
    found: list[Cutout] = []
    for read, targets in images:
        boxes = targets.boxes_xyxy.astype(np.float64)
        wanted = np.flatnonzero(np.isin(targets.class_ids, class_ids)
                                & (boxes[:, 3] - boxes[:, 1] >= settings.source_height_px))
        if not len(wanted):
            continue
        image = read()
        limit = np.array([image.shape[1], image.shape[0]]) - _BORDER_PX
        for index in wanted:
            box = boxes[index]
            others = np.delete(boxes, index, axis=0)
            hidden = len(others) and box_intersection_over_area(others, box[None]).max() > 0.1
            if hidden or (box[:2] < _BORDER_PX).any() or (box[2:] > limit).any():
                continue
            cutout = cut_out(image, box, int(targets.class_ids[index]))
            if cutout is not None:
                found.append(cutout)
    return found


def paste(image: np.ndarray, targets: Targets, cutouts: Sequence[Sequence[Cutout]], settings: PasteSettings,
          rng: np.random.Generator) -> tuple[np.ndarray, Targets]:
    """
    Lay copies over an image, upright, at heights drawn log-uniformly.

    :param image: (H, W, 3) uint8 BGR, kept as it is; `targets` in its px.
    :param cutouts: by class; a class is drawn first, evenly, then one of its cutouts.
    """
    cutouts = [group for group in cutouts if group]
    if not cutouts or rng.random() >= settings.probability:
        return image, targets
    image = image.copy()
    boxes, ids = list(targets.boxes_xyxy), list(targets.class_ids)
    for _ in range(int(rng.integers(1, settings.most + 1))):
        group = cutouts[int(rng.integers(len(cutouts)))]
        cutout = group[int(rng.integers(len(group)))]
        low, high = np.log(settings.height_px)
        box = _place(image, cutout, float(np.exp(rng.uniform(low, high))), boxes, rng)
        if box is None:
            continue
        _blend(image, cutout, box, rng)
        boxes.append(box.astype(np.float32))
        ids.append(cutout.class_id)
    return image, dataclasses.replace(
        targets, boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4), class_ids=np.array(ids, np.int64))


def _place(image: np.ndarray, cutout: Cutout, height: float, boxes: Sequence[np.ndarray],
           rng: np.random.Generator) -> np.ndarray | None:
    """Return a box (4,) int64 xyxy in the lower part of the image that hides little else, or None."""
    rows, columns = image.shape[:2]
    tall = round(height)
    wide = max(2, round(height * cutout.bgr.shape[1] / cutout.bgr.shape[0]))
    if tall > rows or wide > columns:
        return None
    for _ in range(_TRIES):
        left = int(rng.integers(0, columns - wide + 1))
        bottom = int(rng.integers(max(tall, rows // 3), rows + 1))
        box = np.array([left, bottom - tall, left + wide, bottom])
        if not len(boxes):
            return box
        others, own = np.array(boxes, np.float64), box[None].astype(np.float64)
        hidden = max(box_intersection_over_area(others, own).max(),
                     box_intersection_over_area(own, others).max())
        if hidden <= _COVERED:
            return box
    return None


def _blend(image: np.ndarray, cutout: Cutout, box: np.ndarray, rng: np.random.Generator) -> None:
    """Lay a shrunk, perhaps mirrored copy over the image, in place, its brightness drawn to the place's."""
    left, top, right, bottom = box
    size = (int(right - left), int(bottom - top))
    colours = cv2.resize(cutout.bgr, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    alpha = cv2.resize(cutout.alpha, size, interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        colours, alpha = colours[:, ::-1], alpha[:, ::-1]
    place = image[top:bottom, left:right]
    gain = ((place.mean() + 16.0) / (colours.mean() + 16.0)) ** rng.uniform(0.0, 0.6)
    colours = np.clip(colours * np.clip(gain, 0.4, 2.0), 0, 255)
    alpha = alpha[..., None]
    place[:] = np.round(alpha * colours + (1 - alpha) * place).astype(np.uint8)
