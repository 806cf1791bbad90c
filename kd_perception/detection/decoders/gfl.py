# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The head of Generalized Focal Loss (Li et al., NeurIPS 2020), as NanoDet and PicoDet have it.

Each cell holds C class values and, for each of the four sides, the logits of a distribution over
`reg_max + 1` distances in cells. Its expectation is the distance from the cell's point.

Three arrangements are in use: `maps` (one map a stride, as this package exports), `rows` (for each
stride the scores (1, N, C), then for each the distributions (1, N, 4 * bins): PaddleDetection's
export without post-processing), `table` (one (1, N, C + 4 * bins), strides one after another:
NanoDet-Plus's export).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.detection.decoders.values import finite, logit, sigmoid
from kd_perception.models.decoder_spec import DecoderSpec


def decode_gfl(outputs: Sequence[np.ndarray], decoder: DecoderSpec, classes: int, input_hw: tuple[int, int],
               score_threshold: float) -> Detections:
    """Return the candidates of all levels; see the module's text and `detection.decode.decode`."""
    parts = []
    levels = gfl_levels(outputs, decoder, classes, input_hw)
    for stride, (values, distributions) in zip(decoder.strides, levels):
        width = -(-input_hw[1] // stride)
        least = logit(score_threshold) if decoder.activation == 'sigmoid' else score_threshold
        class_ids, positions = np.nonzero(values >= least)
        if len(positions) == 0:
            continue
        scores = values[class_ids, positions]
        scores = sigmoid(scores) if decoder.activation == 'sigmoid' else np.minimum(scores, 1)
        distances = expected_distances(distributions[:, positions], decoder) * stride
        x = (positions % width + decoder.cell_offset) * stride
        y = (positions // width + decoder.cell_offset) * stride
        boxes = np.stack([x - distances[0], y - distances[1], x + distances[2], y + distances[3]], axis=1)
        parts.append(finite(boxes, scores, class_ids))
    return Detections.concatenate(parts)


def gfl_levels(outputs: Sequence[np.ndarray], decoder: DecoderSpec, classes: int, input_hw: tuple[int, int]
               ) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each stride the class values (C, cells) and the distributions (4 * bins, cells)."""
    if decoder.arrangement == 'rows':
        half = len(decoder.strides)
        return [(scores[0].T, distances[0].T) for scores, distances in zip(outputs[:half], outputs[half:])]
    if decoder.arrangement == 'table':
        counts = np.cumsum(cell_counts(decoder.strides, input_hw))[:-1]
        tables = [part.T for part in np.split(outputs[0][0], counts)]
    else:
        tables = [output.reshape(output.shape[1], -1) for output in outputs]
    return [(table[:classes], table[classes:]) for table in tables]


def cell_counts(strides: Sequence[int], input_hw: tuple[int, int]) -> list[int]:
    """Return how many cells each level has."""
    return [(-(-input_hw[0] // stride)) * (-(-input_hw[1] // stride)) for stride in strides]


def strides_of(places: int | None, input_hw: tuple[int, int], choices: Sequence[tuple[int, ...]]
               ) -> tuple[int, ...] | None:
    """Return the first of several sets of strides that makes so many cells; None where none does."""
    return next((each for each in choices if sum(cell_counts(each, input_hw)) == places), None)


def expected_distances(logits: np.ndarray, decoder: DecoderSpec) -> np.ndarray:
    """(4 * bins, N) logits -> (4, N) expected distances (left, top, right, bottom) in cells."""
    bins = decoder.reg_max + 1
    logits = logits.reshape(4, bins, -1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.einsum('sbn,b->sn', weights, np.arange(bins, dtype=np.float32)) / weights.sum(axis=1)
