# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A network as a detector, and what it finds on labelled images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.evaluation.metrics.class_matches import ClassMatches
from kd_perception.evaluation.metrics.detector_matches import match_all
from kd_perception.models.spec import ThresholdSpec
from kd_perception.training.data.datasets import LabelledImage
from kd_perception.training.networks.torch_detector import detection_spec, torch_detector
from kd_perception.training.settings.run import TrainingSettings


def detector_at(network: nn.Module, settings: TrainingSettings,
                input_hw: tuple[int, int] | None = None) -> OnnxDetector:
    """Return a detector with the configured thresholds at the configured (or another) input size."""
    export = settings.export
    thresholds = ThresholdSpec(export.score or 0.4, export.score_low, export.nms_iou, export.max_detections)
    return torch_detector(network, detection_spec(export.name, settings.labels, input_hw or settings.input_hw,
                                                  network, thresholds))


def validate(network: nn.Module, settings: TrainingSettings, images: Sequence[LabelledImage],
             input_hw: tuple[int, int] | None = None) -> dict[str, ClassMatches]:
    """Match a network's detections on labelled images, down to the low score threshold."""
    detector = detector_at(network, settings, input_hw)
    return match_all(lambda image: detector.detect(image, settings.export.score_low).detections, images,
                     settings.labels)
