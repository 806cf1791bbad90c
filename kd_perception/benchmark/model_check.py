# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a model finds in images, as a picture; with labels, the common mistakes of a description beside it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from kd_perception.attach.check import measured, mistakes
from kd_perception.benchmark.accuracy import LabelledImage, LOWEST_SCORE
from kd_perception.detection.drawing import contact_sheet, draw_detections
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import ConfigError
from kd_perception.evaluation.metrics.detector_matches import match_all, report
from kd_perception.labels.kitti_text import read_label_file
from kd_perception.sources.folders import images_in, read_image_file

MOST_DRAWN = 9


def read_images(path: Path, option: str) -> dict[Path, np.ndarray]:
    """Return file -> (H, W, 3) uint8 BGR of an image or a folder of them; `option` is how errors call it."""
    if not path.exists():
        raise ConfigError(f'{option} {path}: no such image or folder')
    files = images_in(path) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f'{option} {path}: holds no images')
    return {file: read_image_file(file) for file in files}


def check_on_images(detector: OnnxDetector, images: dict[Path, np.ndarray], labels: Path | None, picture: Path
                    ) -> None:
    """
    Draw what is found into `picture`; with labels also compare the description with the common mistakes.

    :param labels: KITTI label file, or folder of them by the images' names.
    :raises ConfigError: the picture cannot be written, or labels are missing.
    """
    _draw(detector, list(images.values())[:MOST_DRAWN], picture)
    if labels is None:
        return
    results = measured(detector, lambda each: _mean_ap(each, images, labels))
    for variant, ap in results:
        print(f'  {variant.name:<20} mean AP {ap:5.1f}')
    problems = mistakes(results)
    for problem in problems:
        print(f'warning: {problem}')
    if not problems:
        print('no common mistake does better')


def _draw(detector: OnnxDetector, images: list[np.ndarray], picture: Path) -> None:
    """Write the picture and print the counts; where nothing is sure, what is doubtful is drawn."""
    labels, thresholds, doubt = detector.spec.labels, detector.spec.thresholds, ''
    found = [detector.detect(image).detections for image in images]
    if not any(map(len, found)):
        found = [detector.detect(image, thresholds.score_low).detections for image in images]
        doubt = (f' from score {thresholds.score_low:g} on, since nothing reaches {thresholds.score:g}: '
                 'another --color or --scale?')
    drawn = [draw_detections(image, each, labels) for image, each in zip(images, found)]
    sheet = drawn[0] if len(drawn) == 1 else contact_sheet(drawn)
    try:
        written = cv2.imwrite(str(picture), sheet)
    except cv2.error as error:      # of a suffix that is none of an image
        raise ConfigError(f'{picture}: cannot be written: expected a name such as picture.jpg') from error
    if not written:
        raise ConfigError(f'{picture}: cannot be written')
    counts = np.bincount(np.concatenate([each.class_ids for each in found]), minlength=len(labels))
    told = ', '.join(f'{count} {label}' for count, label in zip(counts, labels))
    print(f'{picture}: {len(drawn)} images; found {told}{doubt}')


def _mean_ap(detector: OnnxDetector, images: dict[Path, np.ndarray], labels: Path) -> float:
    """Return AP at IoU 0.5 in percent, a mean over the classes by their objects."""
    labelled = []
    for path, image in images.items():
        file = labels / f'{path.stem}.txt' if labels.is_dir() else labels
        if not file.is_file():
            raise ConfigError(f'{file}: no such label file for {path.name}')
        labelled.append(LabelledImage(image, read_label_file(file)))
    figures = report(match_all(lambda pixels: detector.detect(pixels, LOWEST_SCORE).detections, labelled,
                               detector.spec.labels))
    counted = [(entry['ap50'], entry['objects']) for entry in figures.values() if entry['ap50'] is not None]
    if not counted:
        raise ConfigError(f'{labels}: holds no object of {", ".join(detector.spec.labels)}')
    # By objects: a class of three objects would decide the mean.
    return 100 * sum(ap * count for ap, count in counted) / sum(count for _, count in counted)
