# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What the image itself says about how far a detector can be trusted: dark, saturated, blurred."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

# Signals are taken at this size: they describe the whole picture, and must cost little next to the model.
LONG_SIDE_PX = 480
DARK_BELOW = 40         # grey level under which little can be told apart on an 8-bit camera
SATURATED_FROM = 250    # any channel at or above: clipped, or about to be


@dataclasses.dataclass(frozen=True)
class SceneSignals:
    """
    Signals of one image.

    :param luminance: mean grey level, 0..255.
    :param contrast: standard deviation of the grey levels, 0..127.5.
    :param dark_share: share of pixels darker than `DARK_BELOW`, 0..1.
    :param saturated_share: share of pixels with a channel at or above `SATURATED_FROM`, 0..1.
    :param sharpness: variance of the Laplacian of the grey image, in squared grey levels; low is
        blurred or empty of texture (Pech-Pacheco et al., ICPR 2000).
    """

    luminance: float
    contrast: float
    dark_share: float
    saturated_share: float
    sharpness: float


def measure_scene(image_bgr: np.ndarray, long_side_px: int = LONG_SIDE_PX,
                  sparse: bool = False) -> SceneSignals:
    """
    Measure an image.

    :param image_bgr: (H, W, 3) uint8.
    :param long_side_px: a larger image is first reduced by a whole factor to about this size, by area,
        so that sharpness compares between cameras of different resolution.
    :param sparse: reduce by taking single pixels instead, which costs next to nothing. Means and spreads are
        the same, sharpness is another number: it compares with none but sparse ones.
    :raises ValueError: not such an image.
    """
    if image_bgr.dtype != np.uint8 or image_bgr.ndim != 3 or image_bgr.shape[2] != 3 or not image_bgr.size:
        raise ValueError(f'expected (H, W, 3) uint8, got {image_bgr.shape} {image_bgr.dtype}')
    height, width = image_bgr.shape[:2]
    factor = max(1, round(max(height, width) / long_side_px))
    if factor > 1:
        size = (max(1, width // factor), max(1, height // factor))
        image_bgr = cv2.resize(
            image_bgr, size, interpolation=cv2.INTER_NEAREST if sparse else cv2.INTER_AREA)
    grey = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY)
    mean, deviation = cv2.meanStdDev(grey)
    _, edges = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    pixels = grey.size
    brightest = cv2.max(cv2.max(image_bgr[..., 0], image_bgr[..., 1]), image_bgr[..., 2])
    return SceneSignals(
        luminance=float(mean[0, 0]),
        contrast=float(deviation[0, 0]),
        dark_share=np.count_nonzero(grey < DARK_BELOW) / pixels,
        saturated_share=np.count_nonzero(brightest >= SATURATED_FROM) / pixels,
        sharpness=float(edges[0, 0]) ** 2)
