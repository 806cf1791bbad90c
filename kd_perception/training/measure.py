# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Measure a network, and the published one it started from, on labelled sets kept out of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from tqdm import tqdm

from kd_perception.boxes.detections import Detections
from kd_perception.evaluation.metrics.class_matches import IOU, MIN_HEIGHT_PX
from kd_perception.evaluation.metrics.detector_matches import match_all, report
from kd_perception.models.spec import ThresholdSpec
from kd_perception.training.data.datasets import LabelledImage, load_dataset
from kd_perception.training.data.targets import CAR, find_riders, PERSON
from kd_perception.training.loop.validation import detector_at
from kd_perception.training.networks.picodet import PicoDet
from kd_perception.training.networks.picodet_onnx import COCO_CLASSES
from kd_perception.training.networks.torch_detector import detection_spec, torch_detector
from kd_perception.training.settings.run import (
    DatasetSettings,
    EvaluationSettings,
    PseudoLabelSettings,
    TrainingSettings,
)

PROTOCOL = (f'ap50: IoU above {IOU}, objects above {MIN_HEIGHT_PX:g} px height, area under the interpolated '
            'precision curve, 0 to 1; interval95: percentile bootstrap over images; kitti_moderate_r40: the '
            'official AP R40 in percent (Car 0.7, Pedestrian and Cyclist 0.5)')
# Low, so that the whole curve is measured; the working thresholds of pseudo-labels are for labels.
_RIDER_RULE = PseudoLabelSettings(uncertain=0.1, rider=0.1)

Detect = Callable[[np.ndarray], Detections]


def measure(settings: TrainingSettings, data_root: Path, network: nn.Module,
            published: PicoDet | None = None) -> dict[str, Any]:
    """
    Measure on every set of `settings.evaluation`.

    :param published: the 80-class network, measured beside ours on the same images: as it stands
        (person is Pedestrian, no Cyclist) and with the rule that a person on a bicycle is a Cyclist.
    :return: a JSON document: the protocol and, for each set and size, figures with counts.
    """
    sets = []
    for evaluation in settings.evaluation:
        images = evaluation_images(data_root, evaluation)
        for size in evaluation.sizes_hw or (settings.input_hw,):
            detectors = {'model': _plain(detector_at(network, settings, size), settings.export.score_low)}
            if published is not None:
                for name, riders in (('published', False), ('published_with_rider_rule', True)):
                    detectors[name] = published_detector(published, settings, size, riders)
            entry: dict[str, Any] = {'folder': evaluation.folder, 'split': evaluation.split,
                                     'images': len(images), 'input_hw': list(size)}
            title = f'{evaluation.folder} {size[1]}x{size[0]}'
            for name, detect in tqdm(detectors.items(), desc=title, unit='model'):
                entry[name] = report(match_all(detect, images, settings.labels), intervals=True)
            sets.append(entry)
    return {'protocol': PROTOCOL, 'sets': sets}


def evaluation_images(data_root: Path, evaluation: EvaluationSettings) -> list[LabelledImage]:
    """List the images of an evaluation set; errors as `datasets.load_dataset`."""
    dataset = DatasetSettings(evaluation.folder, (1, 8192), split=evaluation.split)
    return load_dataset(data_root, dataset)[0]


def published_detector(network: PicoDet, settings: TrainingSettings, input_hw: tuple[int, int],
                       riders: bool) -> Detect:
    """
    Return the 80-class network as a detector of our classes.

    :param riders: a person over a bicycle becomes a Cyclist (joined box, the score of the person)
        and is no Pedestrian; a person over a motorcycle is neither.
    """
    export, labels = settings.export, list(settings.labels)
    spec = detection_spec('published', tuple(f'coco_{i}' for i in range(COCO_CLASSES)), input_hw, network,
                          ThresholdSpec(export.score_low, export.score_low, export.nms_iou, 300))
    detector = torch_detector(network, spec)

    def detect(image: np.ndarray) -> Detections:
        found = detector.detect(image, export.score_low).detections
        people = found.class_ids == PERSON
        parts = [_as(found.select(found.class_ids == CAR), labels.index('Car'))]
        ridden = find_riders(found, _RIDER_RULE) if riders else {}
        people[list(ridden)] = False
        parts.append(_as(found.select(people), labels.index('Pedestrian')))
        cyclists = [(box, found.scores[i]) for i, (kind, box) in ridden.items() if kind == 'Cyclist']
        if cyclists:
            boxes, scores = zip(*cyclists)
            parts.append(Detections(np.array(boxes), np.array(scores),
                                    np.full(len(boxes), labels.index('Cyclist'))))
        return Detections.concatenate(parts)
    return detect


def _plain(detector: Any, score: float) -> Detect:
    return lambda image: detector.detect(image, score).detections


def _as(detections: Detections, class_id: int) -> Detections:
    return dataclasses.replace(detections, class_ids=np.full(len(detections), class_id))


def format_table(metrics: dict[str, Any]) -> Sequence[str]:
    """Return the measured figures as lines of a plain table."""
    lines = []
    for entry in metrics['sets']:
        height, width = entry['input_hw']
        lines.append(f'{entry["folder"]} {entry["split"]}, {entry["images"]} images at {width}x{height}')
        for name in ('model', 'published', 'published_with_rider_rule'):
            if name in entry:
                cells = [f'{label} {_cell(values)}' for label, values in entry[name].items()]
                lines.append(f'  {name:<26} ' + '   '.join(cells))
    return lines


def _cell(values: dict[str, Any]) -> str:
    if values['ap50'] is None:
        return f'- (n={values["objects"]})'
    interval = ', '.join(f'{value:.2f}' for value in values['interval95'] or ())
    return f'{values["ap50"]:.3f} [{interval}] (n={values["objects"]})'
