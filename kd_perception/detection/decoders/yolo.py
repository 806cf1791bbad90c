# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The decoded heads of the YOLO family: one table, a box and class scores for each place.

(1, 4 + C, N) without objectness is what YOLOv8 to v13 exports give; (1, N, 5 + C) with an objectness
that multiplies the class scores is YOLOv5 to v7's, and YOLOX's where the export decodes
(github.com/ultralytics, github.com/WongKinYiu/yolov7, github.com/Megvii-BaseDetection/YOLOX). Boxes are
centre and size in px of the input, or shares of it.

`yolox` is the undecoded head (Ge et al., 'YOLOX', 2021; its demo's `demo_postprocess`): at each cell
(1, N, 5 + C) holds an offset of the centre in cells, the logarithm of width and height in cells, and
objectness and class scores that went through the sigmoid in the graph.
"""

from __future__ import annotations

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.detection.decoders.values import chosen_classes, finite, sigmoid, to_px, to_xyxy
from kd_perception.models.decoder_spec import DecoderSpec


def decode_yolo(output: np.ndarray, decoder: DecoderSpec, input_hw: tuple[int, int],
                score_threshold: float) -> Detections:
    """Return the candidates of one decoded table."""
    table = output[0].T if decoder.arrangement == 'channels_first' else output[0]
    if decoder.objectness:
        table, class_ids, scores = _with_objectness(table, decoder, score_threshold)
    else:
        rows, class_ids, scores = chosen_classes(table[:, 4:], decoder, score_threshold)
        table = table[rows]
    boxes = to_px(to_xyxy(table[:, :4], decoder.box_format), decoder.box_units, input_hw)
    return finite(boxes, scores, class_ids)


def decode_yolox(output: np.ndarray, decoder: DecoderSpec, input_hw: tuple[int, int],
                 score_threshold: float) -> Detections:
    """Return the candidates of YOLOX's undecoded table."""
    table, places = output[0], yolox_places(decoder.strides, input_hw)
    kept = np.flatnonzero(table[:, 4] >= score_threshold)
    with np.errstate(over='ignore', invalid='ignore'):
        centres = (table[kept, :2] + places[kept, :2]) * places[kept, 2:]
        sizes = np.exp(table[kept, 2:4]) * places[kept, 2:]
    decoded = np.concatenate([centres, sizes, table[kept, 4:]], axis=1)
    chosen, class_ids, scores = _with_objectness(decoded, decoder, score_threshold)
    return finite(to_xyxy(chosen[:, :4], 'cxcywh'), scores, class_ids)


def yolox_places(strides: tuple[int, ...], input_hw: tuple[int, int]) -> np.ndarray:
    """Return column, row [cells] and stride [px] (N, 3) of each place, level by level, row by row."""
    parts = []
    for stride in strides:
        rows, columns = np.mgrid[:input_hw[0] // stride, :input_hw[1] // stride]
        parts.append(np.stack([columns.ravel(), rows.ravel(), np.full(rows.size, stride)], axis=1))
    return np.concatenate(parts).astype(np.float32)


def _with_objectness(table: np.ndarray, decoder: DecoderSpec, score_threshold: float
                     ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows (K, ...), class ids and scores where the product reaches the threshold."""
    logits = decoder.activation == 'sigmoid'
    objectness = sigmoid(table[:, 4]) if logits else np.minimum(table[:, 4], 1)
    # A product of two scores never exceeds the first: the few above the threshold pay for the rest.
    likely = np.flatnonzero(objectness >= score_threshold)
    values = sigmoid(table[likely, 5:]) if logits else np.minimum(table[likely, 5:], 1)
    scores = objectness[likely, None] * values
    rows, class_ids = np.nonzero(scores >= score_threshold)
    return table[likely[rows]], class_ids, scores[rows, class_ids]
