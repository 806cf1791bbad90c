# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a detector's scores mean, fitted on labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kd_perception.boxes.score_calibration import Curve
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.evaluation.metrics.committee_report import fit_calibration, match_heights
from kd_perception.labels.kitti_text import read_label_file
from kd_perception.sources.folders import read_image_file

LEAST_SCORE = 0.02
_LEAST_HEIGHT_PX = 15.0


def fitted_curves(detector: OnnxDetector, frames: Sequence[tuple[Path, Path]]) -> dict[str, Curve]:
    """
    Return label -> curve from score to the probability of being right at IoU 0.5.

    :param detector: of uncalibrated scores. :param frames: image and KITTI label file of each.
    :return: without the classes of which too few detections are right.
    """
    truths = [read_label_file(label, scores=False) for _, label in frames]
    found = [detector.detect(read_image_file(image), LEAST_SCORE).detections for image, _ in frames]
    matches = match_heights(truths, found, detector.spec.labels, ((_LEAST_HEIGHT_PX, float('inf')),))
    return {label: curve for label, (each,) in matches.items()
            if (curve := fit_calibration(each)) is not None}
