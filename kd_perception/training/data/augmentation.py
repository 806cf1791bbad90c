# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Random crops and colour changes of training images, with OpenCV.

Every function draws from the generator it is given and from nothing else, so a sample depends only on
its seed. Plain OpenCV is enough here, and its geometry must also move ignored regions and judge what
remains visible of a cut box, which the usual libraries do not do.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from kd_perception.training.data.targets import Targets
from kd_perception.training.settings.run import AugmentationSettings

PAD_VALUE = 114  # grey of the letterbox


def random_crop(image: np.ndarray, targets: Targets, crop_hw: tuple[int, int], width_px: tuple[int, int],
                settings: AugmentationSettings, rng: np.random.Generator, preferred: np.ndarray | None = None
                ) -> tuple[np.ndarray, Targets]:
    """
    Scale the image to a random width, cut a window of `crop_hw` and perhaps mirror it.

    A window wider or taller than the scaled image is filled with the letterbox's grey. Boxes of which
    less than `min_visible` remains, or lower than `min_height_px`, become ignored regions.

    :param image: (H, W, 3) uint8 BGR; `targets` in its px.
    :param width_px: range of the scaled image's width, drawn log-uniformly.
    :param preferred: (C,) bool, classes that the window is rather put around; None for none.
    :return: (crop height, crop width, 3) uint8 and targets in crop px.
    """
    height, width = image.shape[:2]
    scale = np.exp(rng.uniform(np.log(width_px[0]), np.log(width_px[1]))) / width
    window = np.array([crop_hw[1], crop_hw[0]]) / scale  # width, height in source px
    room = np.array([width, height]) - window  # negative where the window is larger than the image
    corner = rng.uniform(np.minimum(room, 0), np.maximum(room, 0))
    if len(targets.boxes_xyxy) and rng.random() < settings.around_object:
        choice = np.arange(len(targets.boxes_xyxy))
        if preferred is not None and preferred.any() and rng.random() < settings.preference:
            rather = np.flatnonzero(preferred[targets.class_ids])
            choice = rather if len(rather) else choice
        box = targets.boxes_xyxy[choice[rng.integers(len(choice))]].astype(np.float64)
        centre = (box[:2] + box[2:]) / 2
        wanted = centre - window * rng.uniform(0.25, 0.75, 2)
        corner = np.where(room > 0, np.clip(wanted, 0, np.maximum(room, 0)), corner)
    flip = rng.random() < settings.flip
    crop = _cut(image, corner, window, scale, crop_hw)
    moved = _move(targets, corner, scale, crop_hw, settings)
    return (np.ascontiguousarray(crop[:, ::-1]), _mirror(moved, crop_hw[1])) if flip else (crop, moved)


def random_colours(image: np.ndarray, settings: AugmentationSettings, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast, gamma, colour, sharpness and noise of (H, W, 3) uint8 BGR."""
    gain = 1 + settings.contrast * rng.uniform(-1, 1)
    offset = 128 * settings.brightness * rng.uniform(-1, 1)
    gamma = np.exp(settings.gamma * rng.uniform(-1, 1))
    levels = np.clip((np.arange(256) - 128) * gain + 128 + offset, 0, 255) / 255
    image = cv2.LUT(image, np.round(levels ** gamma * 255).astype(np.uint8))
    if rng.random() < settings.grey:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    elif settings.saturation > 0 or settings.hue_deg > 0:
        hue = np.round(np.arange(256) + settings.hue_deg / 2 * rng.uniform(-1, 1)) % 180
        saturation = np.clip(np.arange(256) * (1 + settings.saturation * rng.uniform(-1, 1)), 0, 255)
        table = np.stack([hue, saturation, np.arange(256)], -1).astype(np.uint8)[None]
        image = cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), table), cv2.COLOR_HSV2BGR)
    if rng.random() < settings.blur:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5))
    if rng.random() < settings.noise:
        noise = rng.normal(0, rng.uniform(2, 10), image.shape).astype(np.float32)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return image


def _cut(image: np.ndarray, corner: np.ndarray, window: np.ndarray, scale: float,
         crop_hw: tuple[int, int]) -> np.ndarray:
    """Resample the window; cutting before resizing keeps large photographs cheap."""
    matrix = np.array([[scale, 0, -corner[0] * scale], [0, scale, -corner[1] * scale]])
    if scale < 0.7:  # bilinear sampling would alias: blur by the shrink factor first
        low = np.clip(np.floor(corner).astype(int) - 4, 0, None)
        high = np.ceil(corner + window).astype(int) + 4
        image = image[low[1]:max(high[1], 0), low[0]:max(high[0], 0)]
        matrix[:, 2] += scale * low
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / scale)
    # Pixel centres lie at +0.5 in our continuous coordinates, at integers in OpenCV's.
    matrix[:, 2] += 0.5 * scale - 0.5
    return cv2.warpAffine(image, matrix, (crop_hw[1], crop_hw[0]), flags=cv2.INTER_LINEAR,
                          borderMode=cv2.BORDER_CONSTANT, borderValue=(PAD_VALUE,) * 3)


def _move(targets: Targets, corner: np.ndarray, scale: float, crop_hw: tuple[int, int],
          settings: AugmentationSettings) -> Targets:
    limit = np.array([crop_hw[1], crop_hw[0]] * 2, np.float32)

    def move(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        whole = (boxes - np.tile(corner, 2)) * scale
        cut = np.clip(whole, 0, limit).astype(np.float32)
        area = np.prod(np.maximum(whole[:, 2:] - whole[:, :2], 1e-6), axis=1)
        return cut, np.prod(cut[:, 2:] - cut[:, :2], axis=1) / area

    boxes, visible = move(targets.boxes_xyxy)
    ignored, shown = move(targets.ignore_xyxy)
    tall = boxes[:, 3] - boxes[:, 1] >= settings.min_height_px
    good = (visible >= settings.min_visible) & tall
    doubtful = ~good & (visible > 0)
    classes = targets.ignore_classes.shape[1]
    masks = np.arange(classes)[None] == targets.class_ids[doubtful][:, None]
    return Targets(boxes[good], targets.class_ids[good],
                   np.concatenate([ignored[shown > 0], boxes[doubtful]]),
                   np.concatenate([targets.ignore_classes[shown > 0], masks]))


def _mirror(targets: Targets, width: int) -> Targets:
    def mirror(boxes: np.ndarray) -> np.ndarray:
        return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
    return dataclasses.replace(targets, boxes_xyxy=mirror(targets.boxes_xyxy),
                               ignore_xyxy=mirror(targets.ignore_xyxy))
