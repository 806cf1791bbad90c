# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What decoders share: activations, box formats, and the choice of candidates."""

from __future__ import annotations

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.models.decoder_spec import DecoderSpec


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logistic function that does not overflow."""
    return 0.5 * (1 + np.tanh(0.5 * logits))


def logit(probability: float) -> np.float32:
    """Inverse of the logistic function, kept finite: comparing logits spares an exponential a cell."""
    clipped = min(max(probability, 1e-9), 1 - 1e-9)
    return np.float32(np.log(clipped / (1 - clipped)))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis; a row with a non-finite value gives non-finite values."""
    with np.errstate(invalid='ignore', over='ignore'):
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
        return weights / weights.sum(axis=-1, keepdims=True)


def to_xyxy(boxes: np.ndarray, box_format: str | None) -> np.ndarray:
    """
    Turn boxes (N, 4) of another order into x_min, y_min, x_max, y_max.

    :param box_format: `xyxy`, `cxcywh` (centre and size), `xywh` (corner and size) or `yxyx`.
    """
    if box_format == 'xyxy':
        return boxes
    if box_format == 'yxyx':
        return boxes[:, [1, 0, 3, 2]]
    corner, size = boxes[:, :2], boxes[:, 2:]
    with np.errstate(invalid='ignore', over='ignore'):
        if box_format == 'cxcywh':
            corner = corner - 0.5 * size
        return np.concatenate([corner, corner + size], axis=1)


def to_px(boxes_xyxy: np.ndarray, box_units: str | None, input_hw: tuple[int, int]) -> np.ndarray:
    """Turn boxes (N, 4) into px of the model input."""
    if box_units == 'px':
        return boxes_xyxy
    height, width = input_hw
    return boxes_xyxy * np.array([width, height, width, height], dtype=np.float32)


def chosen_classes(values: np.ndarray, decoder: DecoderSpec, score_threshold: float
                   ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Find the (box, class) pairs whose score reaches the threshold.

    :param values: (N, C) class values, with the background's where the decoder says so.
    :return: rows (K,), class ids (K,) without counting the background, scores (K,).
    """
    first = decoder.background == 'first'
    if decoder.activation == 'softmax':
        scores = _foreground(softmax(values), decoder)
        rows, classes = np.nonzero(scores >= score_threshold)
        return rows, classes, scores[rows, classes]
    values = _foreground(values, decoder) if first or decoder.background == 'last' else values
    if decoder.activation == 'sigmoid':
        rows, classes = np.nonzero(values >= logit(score_threshold))
        return rows, classes, sigmoid(values[rows, classes])
    rows, classes = np.nonzero(values >= score_threshold)
    return rows, classes, np.minimum(values[rows, classes], 1)


def _foreground(values: np.ndarray, decoder: DecoderSpec) -> np.ndarray:
    if decoder.background == 'first':
        return values[:, 1:]
    return values[:, :-1] if decoder.background == 'last' else values


def finite(boxes: np.ndarray, scores: np.ndarray, class_ids: np.ndarray) -> Detections:
    """Return the candidates whose values are all finite."""
    good = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    return Detections(boxes[good], scores[good], class_ids[good])
