# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Accuracy beside speed in `benchmark models`: every model on the same labelled images."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import ConfigError
from kd_perception.evaluation.metrics.detector_matches import match_all, report
from kd_perception.labels.kitti_text import KittiObjects, read_label_file
from kd_perception.sources.any_source import open_source

LOWEST_SCORE = 0.01     # the whole curve is measured


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image (H, W, 3) uint8 BGR and its labels."""

    pixels: np.ndarray
    objects: KittiObjects

    def read(self) -> np.ndarray:
        """Return the image."""
        return self.pixels


def labelled_images(images: Path, labels: Path) -> list[LabelledImage]:
    """
    Read a folder of images with a label file for each.

    :raises ConfigError: an image has no label file, or there is no image.
    """
    found = []
    with open_source(images, None) as frames:
        for frame in frames:
            path = labels / f'{Path(frame.name).stem}.txt'
            if not path.is_file():
                raise ConfigError(f'{path}: no such label file for {frame.name} of {images}')
            found.append(LabelledImage(frame.decode(), read_label_file(path)))
    if not found:
        raise ConfigError(f'{images}: holds no image')
    return found


def accuracy(detector: OnnxDetector, images: Sequence[LabelledImage], name: str) -> dict[str, Any]:
    """
    Measure one model.

    :return: by class AP at IoU 0.5 over objects above 25 px, its bootstrap interval, counts, and the official
        KITTI figure (see `evaluation.metrics.detector_matches`).
    """
    bar = tqdm(images, desc=f'accuracy of {name}', unit='image')
    return report(match_all(lambda image: detector.detect(image, LOWEST_SCORE).detections, bar,
                            detector.spec.labels), intervals=True)
