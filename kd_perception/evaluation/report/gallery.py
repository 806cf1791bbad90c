# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Pictures of the worst mistakes: the place in question, with labels and detections drawn."""
import base64
from collections.abc import Sequence

import cv2
import numpy as np

from kd_perception.evaluation.frame_set import FrameSet
from kd_perception.evaluation.metrics.kitti_eval import ClassProtocol, KittiEvaluator
from kd_perception.evaluation.metrics.mistakes import (
    Mistake,
    OperatingPoint,
    Picture,
    worst_false_alarms,
    worst_misses,
)

TILE_HW = (240, 360)
# The object takes at most this share of the picture, so that its surroundings can be seen.
_OBJECT_SHARE = 0.45
_LEAST_CROP_PX = 120.0
_LABEL_BGR, _DETECTION_BGR, _MISTAKE_BGR = (120, 190, 60), (230, 160, 30), (60, 60, 230)
_JPEG_QUALITY = 82


def make_gallery(frames: FrameSet, evaluator: KittiEvaluator, classes: Sequence[ClassProtocol],
                 points: dict[str, OperatingPoint], count: int = 8) -> dict[str, list[Picture]]:
    """Return {'misses': ..., 'false_alarms': ...}: up to ``count`` pictures of each class in turn."""
    found = {kind: [mistake for protocol in classes
                    for mistake in find(evaluator, protocol, points[protocol.name], count)]
             for kind, find in (('misses', worst_misses), ('false_alarms', worst_false_alarms))}
    mistakes = [mistake for group in found.values() for mistake in group]
    tiles: dict[Mistake, str | None] = {}
    # One pass over the images: those of a recording cannot be fetched one by one.
    for index, image in frames.images(sorted({item.frame for item in mistakes})) if frames.images else ():
        for mistake in mistakes:
            if mistake.frame == index and mistake not in tiles:
                tiles[mistake] = _encode(_draw(frames, mistake, image, points[mistake.class_name].threshold))
    return {kind: [_picture(frames, mistake, tiles.get(mistake)) for mistake in group]
            for kind, group in found.items()}


def _picture(frames: FrameSet, mistake: Mistake, data_uri: str | None) -> Picture:
    left, top, right, bottom = mistake.box_xyxy
    score = '' if np.isnan(mistake.score) else f' {mistake.score:.2f}'
    caption = f'{mistake.class_name}{score}, {right - left:.0f} x {bottom - top:.0f} px'
    return Picture(frames.labels.frames[mistake.frame], caption, mistake.note, data_uri)


def _crop(box: Sequence[float], image_hw: Sequence[int]) -> Sequence[float]:
    """Return left, top, scale of a window of the tile's shape around the box, inside the image."""
    height, width = max(box[3] - box[1], 1.0), max(box[2] - box[0], 1.0)
    tile_h, tile_w = TILE_HW
    window_h = max(height / _OBJECT_SHARE, width / _OBJECT_SHARE * tile_h / tile_w, _LEAST_CROP_PX)
    window_h = min(window_h, max(image_hw[0], image_hw[1] * tile_h / tile_w))
    window_w = window_h * tile_w / tile_h
    left = (box[0] + box[2] - window_w) / 2
    top = (box[1] + box[3] - window_h) / 2
    left = min(max(left, 0.0), max(image_hw[1] - window_w, 0.0))
    top = min(max(top, 0.0), max(image_hw[0] - window_h, 0.0))
    return left, top, tile_h / window_h


def _draw(frames: FrameSet, mistake: Mistake, image: np.ndarray, threshold: float) -> np.ndarray:
    left, top, scale = _crop(mistake.box_xyxy, image.shape[:2])
    matrix = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
    flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    tile = cv2.warpAffine(image, matrix, TILE_HW[::-1], flags=flags, borderValue=(235, 235, 235))

    def rectangle(box: np.ndarray, color, thickness: int) -> None:
        x1, y1, x2, y2 = (int(round(value)) for value in (
            (box[0] - left) * scale, (box[1] - top) * scale, (box[2] - left) * scale, (box[3] - top) * scale))
        cv2.rectangle(tile, (x1, y1), (x2, y2), color, thickness, cv2.LINE_AA)

    labels = frames.labels.frame_objects(mistake.frame)
    for name, box in zip(labels.types, labels.boxes_xyxy):
        rectangle(box, (170, 170, 170) if name.lower() == 'dontcare' else _LABEL_BGR, 1)
    found = frames.detections.frame_objects(mistake.frame)
    for box in found.boxes_xyxy[np.asarray(found.scores) >= threshold]:
        rectangle(box, _DETECTION_BGR, 1)
    rectangle(np.array(mistake.box_xyxy), _MISTAKE_BGR, 2)
    return tile


def _encode(tile: np.ndarray) -> str | None:
    good, data = cv2.imencode('.jpg', tile, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return 'data:image/jpeg;base64,' + base64.b64encode(data.tobytes()).decode('ascii') if good else None
