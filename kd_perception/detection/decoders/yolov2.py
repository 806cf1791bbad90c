# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The head of YOLOv2 (Redmon and Farhadi, 'YOLO9000', CVPR 2017).

Each cell holds for each anchor t_x, t_y, t_w, t_h, an objectness logit and C class logits. The box's centre
is (column + sigmoid(t_x), row + sigmoid(t_y)) cells, its size anchor * (exp(t_w), exp(t_h)), and the score
of a class sigmoid(objectness) * softmax(classes).
"""

from __future__ import annotations

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.detection.decoders.values import finite, sigmoid, softmax
from kd_perception.models.decoder_spec import DecoderSpec


def decode_yolov2(output: np.ndarray, decoder: DecoderSpec, classes: int,
                  score_threshold: float) -> Detections:
    """Return the candidates of the one map (1, anchors * (5 + C), rows, columns)."""
    stride = np.float32(decoder.strides[0])
    anchors = np.array(decoder.anchors_px, dtype=np.float32)
    height, width = output.shape[2:]
    cells = output.reshape(len(anchors), 5 + classes, height * width)
    # A class score never exceeds its objectness: the few cells above the threshold pay for the rest.
    objectness = sigmoid(cells[:, 4])
    chosen, positions = np.nonzero(objectness >= score_threshold)
    raw = cells[chosen, :, positions]
    scores = objectness[chosen, positions, None] * softmax(raw[:, 5:])
    centres = np.stack([positions % width, positions // width], axis=1) + sigmoid(raw[:, :2])
    with np.errstate(over='ignore', invalid='ignore'):  # an overflow becomes inf, and inf gives no candidate
        half_sizes = 0.5 * anchors[chosen] * np.exp(raw[:, 2:4])
        boxes = np.concatenate([centres * stride - half_sizes, centres * stride + half_sizes], axis=1)
    rows, class_ids = np.nonzero(scores >= score_threshold)
    return finite(boxes[rows], scores[rows, class_ids], class_ids)
