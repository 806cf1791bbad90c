# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Rendered street scenes with exact labels: training data for tests and smoke runs, made on the spot."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from kd_perception.detection.drawing import write_png
from kd_perception.files import write_whole
from kd_perception.labels.kitti_text import format_objects, KittiObjects

_SIZE_HW = (192, 384)
_ASPECT = {'Car': 1.6, 'Pedestrian': 0.4, 'Cyclist': 0.7}  # width over height


def render_dataset(folder: Path, count: int, seed: int) -> None:
    """Write `count` images and label files in the layout that `datasets` reads; the same for a seed."""
    (folder / 'images').mkdir(parents=True, exist_ok=True)
    (folder / 'label_2').mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image, objects = render_scene(np.random.default_rng([seed, i]))
        write_png(folder / 'images' / f'{i:06d}.png', image)
        write_whole(folder / 'label_2' / f'{i:06d}.txt', format_objects(objects))


def render_scene(rng: np.random.Generator) -> tuple[np.ndarray, KittiObjects]:
    """Draw a road with one to four objects that do not overlap; (192, 384, 3) uint8 BGR and its labels."""
    height, width = _SIZE_HW
    horizon = height // 3
    image = np.empty((height, width, 3), np.uint8)
    image[:horizon] = rng.integers(170, 240, 3)
    image[horizon:] = rng.integers(60, 110)
    types, boxes = [], []
    slots = rng.permutation(4)[:rng.integers(1, 5)]
    for slot in slots:
        kind = str(rng.choice(list(_ASPECT)))
        tall = int(rng.integers(36, 90))
        wide = min(int(tall * _ASPECT[kind]), width // 4 - 4)
        left = int(slot) * width // 4 + int(rng.integers(0, width // 4 - wide))
        top = int(rng.integers(horizon, height - tall))
        _DRAW[kind](image, left, top, wide, tall, tuple(int(v) for v in rng.integers(0, 256, 3)))
        types.append(kind)
        boxes.append((left, top, left + wide, top + tall))
    noise = rng.normal(0, 4, image.shape)
    return (np.clip(image + noise, 0, 255).astype(np.uint8),
            KittiObjects.from_boxes(types, np.array(boxes, np.float64)))


def _car(image: np.ndarray, x: int, y: int, w: int, h: int, colour: tuple) -> None:
    cv2.rectangle(image, (x, y + h // 3), (x + w - 1, y + h - h // 8), colour, -1)
    cv2.rectangle(image, (x + w // 5, y), (x + w - w // 5, y + h // 3), colour, -1)
    for wheel in (x + w // 5, x + w - w // 5):
        cv2.circle(image, (wheel, y + h - h // 6), h // 6, (10, 10, 10), -1)


def _pedestrian(image: np.ndarray, x: int, y: int, w: int, h: int, colour: tuple) -> None:
    cv2.circle(image, (x + w // 2, y + h // 8), h // 8, (140, 170, 220), -1)
    cv2.rectangle(image, (x, y + h // 4), (x + w - 1, y + h // 2), colour, -1)
    for leg in (x + w // 4, x + w - w // 4):
        cv2.line(image, (leg, y + h // 2), (leg, y + h - 1), (30, 30, 30), max(2, w // 4))


def _cyclist(image: np.ndarray, x: int, y: int, w: int, h: int, colour: tuple) -> None:
    radius = max(3, w // 4)
    for wheel in (x + radius, x + w - radius):
        cv2.circle(image, (wheel, y + h - radius), radius - 1, (20, 20, 20), 2)
    _pedestrian(image, x + w // 4, y, w // 2, h - radius, colour)


_DRAW = {'Car': _car, 'Pedestrian': _pedestrian, 'Cyclist': _cyclist}
