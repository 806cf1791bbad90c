# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
What a head says at every place, for losses that compare two networks: one place a cell, in the cells' order.

Decoders (`detection.decode`) keep only places whose score counts. Heads with several places a cell, or with
queries in place of cells, are not dense in this sense.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from kd_perception.detection.decoders.gfl import cell_counts, expected_distances, gfl_levels, strides_of
from kd_perception.detection.decoders.values import sigmoid, to_px, to_xyxy
from kd_perception.detection.decoders.yolo import yolox_places
from kd_perception.models.spec import ModelSpec

STRIDES = ((8, 16, 32), (8, 16, 32, 64))


@dataclasses.dataclass(frozen=True)
class DenseLevel:
    """
    The places of one stride, row by row.

    :param scores: (P, C) of the network's own classes, 0..1. :param boxes: (P, 4) xyxy px of the input.
    :param distributions: (P, 4, bins) logits of left, top, right and bottom distances in cells, or None.
    """

    scores: np.ndarray
    boxes: np.ndarray
    distributions: np.ndarray | None = None


def dense_strides(spec: ModelSpec, places: int | None = None) -> tuple[int, ...] | None:
    """
    Return the strides of a dense head's levels; None for other heads.

    :param places: how many places a table of decoder `yolo` has, which does not say its strides.
    """
    decoder = spec.decoder
    if decoder.type in ('gfl', 'yolox'):
        return decoder.strides
    if decoder.type != 'yolo':
        return None
    return strides_of(places, spec.input.hw, STRIDES)


def dense_levels(outputs: Sequence[np.ndarray], spec: ModelSpec) -> dict[int, DenseLevel]:
    """
    Read a dense head.

    :param outputs: of one image, as `detection.decode` takes them.
    :return: stride -> level; empty for heads that are not dense.
    """
    decoder, hw = spec.decoder, spec.input.hw
    if decoder.type == 'gfl':
        return _gfl(outputs, spec)
    if decoder.type not in ('yolo', 'yolox'):
        return {}
    table = np.asarray(outputs[0][0], np.float32)
    table = table.T if decoder.arrangement == 'channels_first' else table
    strides = dense_strides(spec, len(table))
    if strides is None:
        return {}
    boxes, scores = table[:, :4], table[:, 4:]
    if decoder.activation == 'sigmoid':
        scores = sigmoid(scores)
    if decoder.type == 'yolox' or decoder.objectness:
        scores = scores[:, :1] * scores[:, 1:]
    if decoder.type == 'yolox':
        places = yolox_places(strides, hw)
        boxes = np.concatenate([(boxes[:, :2] + places[:, :2]) * places[:, 2:],
                                np.exp(np.minimum(boxes[:, 2:], 20)) * places[:, 2:]], axis=1)
    boxes = to_px(to_xyxy(boxes, decoder.box_format), decoder.box_units, hw)
    ends = np.cumsum(cell_counts(strides, hw))[:-1]
    return {stride: DenseLevel(*parts) for stride, *parts in zip(
        strides, np.split(scores, ends), np.split(boxes, ends))}


def _gfl(outputs: Sequence[np.ndarray], spec: ModelSpec) -> dict[int, DenseLevel]:
    decoder, hw = spec.decoder, spec.input.hw
    levels = {}
    parts = gfl_levels(outputs, decoder, spec.network_classes, hw)
    for stride, (values, distributions) in zip(decoder.strides, parts):
        scores = sigmoid(values) if decoder.activation == 'sigmoid' else values
        rows, columns = np.mgrid[:-(-hw[0] // stride), :-(-hw[1] // stride)]
        points = np.stack([columns.ravel(), rows.ravel()]) + decoder.cell_offset
        distances = expected_distances(distributions, decoder)
        boxes = np.concatenate([points - distances[:2], points + distances[2:]]).T * stride
        levels[stride] = DenseLevel(
            scores.T, boxes, distributions.reshape(4, decoder.reg_max + 1, -1).transpose(2, 0, 1))
    return levels
