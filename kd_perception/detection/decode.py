# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
From a model's outputs to candidate boxes in px of the model input, before NMS.

Each family of detectors has a module under `detection.decoders`, which gives its source.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.detection.decoders.boxes_scores import decode_boxes_scores
from kd_perception.detection.decoders.end_to_end import decode_end_to_end
from kd_perception.detection.decoders.gfl import cell_counts, decode_gfl
from kd_perception.detection.decoders.ssd import decode_ssd
from kd_perception.detection.decoders.values import sigmoid
from kd_perception.detection.decoders.yolo import decode_yolo, decode_yolox
from kd_perception.detection.decoders.yolov2 import decode_yolov2
from kd_perception.models.decoder_spec import DecoderSpec
from kd_perception.models.spec import ModelSpec

__all__ = ['decode', 'output_shapes', 'shape_fits', 'sigmoid']

# In front of a shape: any axes, as long as they are of size 1.
BATCH = ...


def decode(outputs: Sequence[np.ndarray], spec: ModelSpec, score_threshold: float) -> Detections:
    """
    Turn the outputs of one image into candidates.

    A place becomes a candidate for each class whose score reaches the threshold.

    :param outputs: the arrays that `output_shapes(spec)` describes, in that order.
    :param score_threshold: in (0, 1].
    :return: boxes in px of the model input, unsorted, overlapping; class ids count the network's own
        classes. Places with a non-finite value give no candidate.
    :raises ValueError: the outputs disagree with one another.
    """
    decoder, classes, input_hw = spec.decoder, spec.network_classes, spec.input.hw
    if decoder.type == 'gfl':
        return decode_gfl(outputs, decoder, classes, input_hw, score_threshold)
    if decoder.type == 'yolov2':
        return decode_yolov2(outputs[0], decoder, classes, score_threshold)
    if decoder.type == 'yolo':
        return decode_yolo(outputs[0], decoder, input_hw, score_threshold)
    if decoder.type == 'yolox':
        return decode_yolox(outputs[0], decoder, input_hw, score_threshold)
    if decoder.type == 'end_to_end':
        parts = dict(zip(decoder.output_names(), outputs))
        return decode_end_to_end(parts, decoder, classes, input_hw, score_threshold)
    if decoder.type == 'ssd':
        return decode_ssd(outputs, decoder, input_hw, score_threshold)
    return decode_boxes_scores(outputs, decoder, input_hw, score_threshold)


def output_shapes(spec: ModelSpec) -> dict[str, tuple]:
    """
    Outputs that a model with this spec must have: name -> shape, None where any size will do.

    `...` at the front stands for any number of axes of size 1; alone, for any shape. The forms are
    described in docs/reference/models.md.
    """
    decoder = spec.decoder
    shapes = _part_shapes(decoder, spec.network_classes, spec.input.hw)
    return {name: shapes[role] for role, name in decoder.output_names().items()}


def _part_shapes(decoder: DecoderSpec, classes: int, input_hw: tuple[int, int]) -> dict[str, tuple]:
    values, bins = decoder.class_values(classes), 4 * (decoder.reg_max + 1)
    if decoder.type in ('boxes_scores', 'detr', 'ssd'):
        return {'boxes': (1, None, 4), 'scores': (1, None, values), 'priors': (BATCH,)}
    if decoder.type == 'end_to_end':
        return {'rows': (BATCH, None, len(decoder.columns)), 'boxes': (BATCH, None, 4),
                'scores': (BATCH, None), 'labels': (BATCH, None), 'count': (BATCH,)}
    if decoder.type == 'yolo':
        row = 4 + decoder.objectness + classes
        return {'predictions': (1, row, None) if decoder.arrangement == 'channels_first' else (1, None, row)}
    if decoder.type == 'yolox':
        places = sum((input_hw[0] // stride) * (input_hw[1] // stride) for stride in decoder.strides)
        return {'predictions': (1, places, 5 + classes)}
    counts = cell_counts(decoder.strides, input_hw)
    if decoder.arrangement == 'table':
        return {'predictions': (1, sum(counts), classes + bins)}
    if decoder.arrangement == 'rows':
        return {f'{part}_{stride}': (1, count, classes if part == 'scores' else bins)
                for part in ('scores', 'distances') for stride, count in zip(decoder.strides, counts)}
    channels = len(decoder.anchors_px) * (5 + classes) if decoder.type == 'yolov2' else classes + bins
    return {f'level_{stride}': (1, channels, -(-input_hw[0] // stride), -(-input_hw[1] // stride))
            for stride in decoder.strides}


def shape_fits(found: Sequence, expected: tuple) -> bool:
    """
    Whether a shape fits what `output_shapes` says; symbolic sizes (string or None) fit anything.

    :param found: a shape, or the sizes that a graph declares.
    """
    found = list(found)
    if expected == (BATCH,):
        return True
    if expected[:1] == (BATCH,):
        expected = expected[1:]
        extra = max(len(found) - len(expected), 0)
        if any(isinstance(size, int) and size != 1 for size in found[:extra]):
            return False
        found = found[extra:]
    return len(found) == len(expected) and all(
        want is None or not isinstance(have, int) or have == want for have, want in zip(found, expected))
