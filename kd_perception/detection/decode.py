# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Decoders: from a model's outputs to candidate boxes in model-input px, before NMS.

`gfl` is the head of Generalized Focal Loss (Li et al., NeurIPS 2020), as used by NanoDet and
PicoDet: each cell holds C class logits and, for each of the four sides, a distribution over
`reg_max + 1` distances in cells, whose expectation is the distance from the cell's centre.

`yolov2` is the head of YOLOv2 (Redmon and Farhadi, 'YOLO9000', CVPR 2017): each cell holds for each
anchor t_x, t_y, t_w, t_h, an objectness logit and C class logits. The box's centre is
(column + sigmoid(t_x), row + sigmoid(t_y)) cells, its size anchor * (exp(t_w), exp(t_h)), and the score
of a class sigmoid(objectness) * softmax(classes).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kd_perception.detection.detections import Detections
from kd_perception.detection.model_spec import DecoderSpec, ModelSpec


def decode(outputs: Sequence[np.ndarray], spec: ModelSpec, score_threshold: float) -> Detections:
    """
    Turn the outputs of one image into candidates.

    A cell becomes a candidate for each class whose score reaches the threshold.

    :param outputs: the arrays that `output_shapes(spec)` describes, in that order.
    :param score_threshold: in (0, 1].
    :return: boxes in px of the model input, unsorted, overlapping. Cells with a non-finite value
        give no candidate.
    """
    if spec.decoder.type == 'gfl':
        return _decode_gfl(outputs, spec, score_threshold)
    if spec.decoder.type == 'yolov2':
        return _decode_yolov2(outputs[0], spec, score_threshold)
    return _decode_boxes_scores(outputs, score_threshold)


def output_shapes(spec: ModelSpec) -> dict[str, tuple[int | None, ...]]:
    """
    Outputs that a model with this spec must have: name -> shape, None where any size will do.

    `gfl`: one `level_<stride>` (1, C + 4 * (reg_max + 1), H / stride, W / stride) a stride.
    `yolov2`: `level_<stride>` (1, anchors * (5 + C), H / stride, W / stride), anchor by anchor.
    `boxes_scores`: `boxes` (1, N, 4) xyxy px of the input and `scores` (1, N, C) in [0, 1].
    """
    decoder, classes = spec.decoder, len(spec.labels)
    if decoder.type == 'boxes_scores':
        return {'boxes': (1, None, 4), 'scores': (1, None, classes)}
    channels = classes + 4 * (decoder.reg_max + 1)
    if decoder.type == 'yolov2':
        channels = len(decoder.anchors_px) * (5 + classes)
    return {
        f'level_{stride}': (1, channels, -(-spec.input.height // stride), -(-spec.input.width // stride))
        for stride in decoder.strides}


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logistic function that does not overflow."""
    return 0.5 * (1 + np.tanh(0.5 * logits))


def _decode_gfl(outputs: Sequence[np.ndarray], spec: ModelSpec, score_threshold: float) -> Detections:
    classes = len(spec.labels)
    # Compare logits: one comparison a cell instead of one exponential.
    threshold = min(max(score_threshold, 1e-9), 1 - 1e-9)
    logit_threshold = np.float32(np.log(threshold / (1 - threshold)))
    parts = []
    for output, stride in zip(outputs, spec.decoder.strides):
        channels, _, width = output.shape[1:]
        cells = output.reshape(channels, -1)
        class_ids, positions = np.nonzero(cells[:classes] >= logit_threshold)
        if len(positions) == 0:
            continue
        scores = sigmoid(cells[class_ids, positions])
        distances = _expected_distances(cells[classes:, positions], spec.decoder) * stride
        x = (positions % width + 0.5) * stride
        y = (positions // width + 0.5) * stride
        boxes = np.stack([x - distances[0], y - distances[1], x + distances[2], y + distances[3]], axis=1)
        parts.append(_finite(boxes, scores, class_ids))
    return Detections.concatenate(parts)


def _expected_distances(logits: np.ndarray, decoder: DecoderSpec) -> np.ndarray:
    """(4 * bins, N) logits -> (4, N) expected distances (left, top, right, bottom) in cells."""
    bins = decoder.reg_max + 1
    logits = logits.reshape(4, bins, -1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.einsum('sbn,b->sn', weights, np.arange(bins, dtype=np.float32)) / weights.sum(axis=1)


def _decode_yolov2(output: np.ndarray, spec: ModelSpec, score_threshold: float) -> Detections:
    stride = np.float32(spec.decoder.strides[0])
    anchors = np.array(spec.decoder.anchors_px, dtype=np.float32)
    height, width = output.shape[2:]
    cells = output.reshape(len(anchors), 5 + len(spec.labels), height * width)
    # A class score never exceeds its objectness: the few cells above the threshold pay for the rest.
    objectness = sigmoid(cells[:, 4])
    chosen, positions = np.nonzero(objectness >= score_threshold)
    raw = cells[chosen, :, positions]
    exponentials = np.exp(raw[:, 5:] - raw[:, 5:].max(axis=1, keepdims=True))
    scores = objectness[chosen, positions, None] * exponentials / exponentials.sum(axis=1, keepdims=True)
    centres = np.stack([positions % width, positions // width], axis=1) + sigmoid(raw[:, :2])
    with np.errstate(over='ignore'):  # an overflow becomes inf, and inf gives no candidate
        half_sizes = 0.5 * anchors[chosen] * np.exp(raw[:, 2:4])
        boxes = np.concatenate([centres * stride - half_sizes, centres * stride + half_sizes], axis=1)
    rows, class_ids = np.nonzero(scores >= score_threshold)
    return _finite(boxes[rows], scores[rows, class_ids], class_ids)


def _decode_boxes_scores(outputs: Sequence[np.ndarray], score_threshold: float) -> Detections:
    boxes, scores = outputs[0][0], outputs[1][0]
    cells, class_ids = np.nonzero(scores >= score_threshold)
    return _finite(boxes[cells], np.minimum(scores[cells, class_ids], 1), class_ids)


def _finite(boxes: np.ndarray, scores: np.ndarray, class_ids: np.ndarray) -> Detections:
    good = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    return Detections(boxes[good], scores[good], class_ids[good])
