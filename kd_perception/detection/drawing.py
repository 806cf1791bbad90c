# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Pictures for people: boxes on frames, contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
import math
from pathlib import Path

import cv2
import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.files import write_whole

# BGR, easy to tell apart for most colour-blind readers (Okabe and Ito's palette).
PALETTE_BGR = ((178, 114, 0), (0, 94, 213), (115, 158, 0), (167, 121, 204), (233, 180, 86), (66, 228, 240),
               (0, 159, 230))
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def class_color(class_id: int) -> tuple[int, int, int]:
    """BGR colour of a class; repeats after `len(PALETTE_BGR)` classes."""
    return PALETTE_BGR[class_id % len(PALETTE_BGR)]


def draw_detections(image_bgr: np.ndarray, detections: Detections, labels: Sequence[str],
                    min_score: float = 0.0) -> np.ndarray:
    """
    Draw boxes with class and score on a copy of an image.

    :param image_bgr: (H, W, 3) uint8; left as it is.
    :param min_score: weaker detections are not drawn.
    """
    canvas = np.ascontiguousarray(image_bgr).copy()
    thickness = max(1, round(min(canvas.shape[:2]) / 250))
    scale = max(0.4, min(canvas.shape[:2]) / 1000)
    # The strongest last, so that its label stays readable.
    for box, score, class_id in reversed(list(zip(
            detections.boxes_xyxy, detections.scores, detections.class_ids))):
        if score < min_score:
            continue
        color = class_color(int(class_id))
        x0, y0, x1, y1 = (int(round(float(v))) for v in box)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), color, thickness)
        name = labels[class_id] if 0 <= class_id < len(labels) else str(class_id)
        _draw_label(canvas, f'{name} {score:.2f}', (x0, y0), color, scale)
    return canvas


def _draw_label(canvas: np.ndarray, text: str, corner_xy: tuple[int, int], color: tuple, scale: float):
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, 1)
    x = min(max(corner_xy[0], 0), max(canvas.shape[1] - width, 0))
    y = corner_xy[1] if corner_xy[1] >= height + baseline else corner_xy[1] + height + baseline
    cv2.rectangle(canvas, (x, y - height - baseline), (x + width, y), color, cv2.FILLED)
    cv2.putText(canvas, text, (x, y - baseline + 1), _FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)


def contact_sheet(images: Sequence[np.ndarray], captions: Sequence[str] = (), columns: int = 3,
                  tile_width: int = 640) -> np.ndarray:
    """
    Arrange pictures in a grid, each scaled to the same width, with a caption under each.

    :param images: (H, W, 3) uint8 BGR, at least one; sizes may differ.
    :param captions: one a picture, or none at all.
    :return: (H', W', 3) uint8 BGR.
    :raises ValueError: no picture, or captions that do not match.
    """
    if not images or (captions and len(captions) != len(images)):
        raise ValueError(
            f'expected at least one image and as many captions, got {len(images)} and {len(captions)}')
    columns = min(columns, len(images))
    tiles = []
    for i, image in enumerate(images):
        height = max(1, round(image.shape[0] * tile_width / image.shape[1]))
        interpolation = cv2.INTER_AREA if tile_width < image.shape[1] else cv2.INTER_LINEAR
        tile = cv2.resize(image, (tile_width, height), interpolation=interpolation)
        if captions:
            strip = np.full((24, tile_width, 3), 32, dtype=np.uint8)
            cv2.putText(strip, captions[i], (6, 17), _FONT, 0.45, (230, 230, 230), 1, cv2.LINE_AA)
            tile = np.concatenate([tile, strip])
        tiles.append(tile)
    rows = []
    for r in range(math.ceil(len(tiles) / columns)):
        row = tiles[r * columns:(r + 1) * columns]
        height = max(tile.shape[0] for tile in row)
        cells = [np.full((height, tile_width, 3), 255, dtype=np.uint8) for _ in range(columns)]
        for cell, tile in zip(cells, row):
            cell[:tile.shape[0]] = tile
        rows.append(np.concatenate(cells, axis=1))
    return np.concatenate(rows)


def write_png(path: Path, image: np.ndarray) -> None:
    """
    Write an image (H, W, 3) or (H, W) uint8 as PNG, whole or not at all.

    :raises OSError: it cannot be written. `cv2.imwrite` would return False, and half a file stay.
    """
    write_whole(path, cv2.imencode('.png', image)[1].tobytes())
