# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What of a frame is compared with the reference: a few numbers of the image and of the detector's answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.images.scene import measure_scene

# Quantity -> (unit, what it is). One value a frame, but for `height`, `bottom` and scores: one for each box.
QUANTITIES: Mapping[str, tuple[str, str]] = {
    'luminance': ('grey level', 'mean of the image'),
    'contrast': ('grey levels', 'standard deviation of the image'),
    'sharpness': ('squared grey levels', 'variance of the Laplacian: low is blurred, or empty of texture'),
    'detections': ('count', 'boxes at the working threshold'),
    'height': ('share of the image height', 'height of a box'),
    'bottom': ('share of the image height', 'lower edge of a box from above: where the ground is'),
}
SCORE = 'score.'            # score.CLASS: scores of that class's boxes
AMBIGUITY = 'ambiguity.'    # ambiguity.SCORER: the fallback's score of a frame
GRID_LONG_SIDE_PX = 240

Values = Mapping[str, 'float | np.ndarray']


def scene_values(image_bgr: np.ndarray) -> dict[str, float]:
    """
    Measure an image (H, W, 3) uint8 on a sparse grid of its pixels.

    Reducing it by area, as the fallback does, would cost more than all the rest.

    :raises ValueError: not such an image.
    """
    scene = measure_scene(image_bgr, GRID_LONG_SIDE_PX, sparse=True)
    return {'luminance': scene.luminance, 'contrast': scene.contrast, 'sharpness': scene.sharpness}


def detection_values(detections: Detections, labels: Sequence[str], image_hw: tuple[int, int],
                     score: float) -> dict[str, float | np.ndarray]:
    """
    Return what a detector's answer shows.

    :param detections: down to `score` or below; boxes in px of an image of (height, width) `image_hw`.
    :param score: the model's own working threshold: a reference is of one threshold.
    """
    accepted = detections.scores >= score
    boxes, scores, ids = (
        detections.boxes_xyxy[accepted], detections.scores[accepted], detections.class_ids[accepted])
    values: dict[str, float | np.ndarray] = {
        'detections': float(len(scores)), 'height': (boxes[:, 3] - boxes[:, 1]) / image_hw[0],
        'bottom': boxes[:, 3] / image_hw[0]}
    for i, label in enumerate(labels):
        values[SCORE + label] = scores[ids == i]
    return values


def known_quantities(labels: Sequence[str], scorers: Sequence[str]) -> set[str]:
    """Return the names that a reference may hold, for a model's labels and the scorers of a fallback."""
    return {*QUANTITIES, *(SCORE + label for label in labels), *(AMBIGUITY + name for name in scorers)}


def finite(values: float | np.ndarray) -> np.ndarray:
    """Return the finite ones as (N,) float64."""
    if isinstance(values, float):
        return np.array([values] if math.isfinite(values) else [])
    values = np.asarray(values, dtype=np.float64).reshape(-1)
    return values if np.isfinite(values).all() else values[np.isfinite(values)]
