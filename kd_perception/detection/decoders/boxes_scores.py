# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Boxes (1, N, 4) beside class values (1, N, C): what most exporters can be made to give.

`boxes_scores` takes any box format, activation and background. `detr` is the same with the habits of
DETR (Carion et al., ECCV 2020) and its successors: boxes centre and size as shares of the input;
class logits, either with sigmoid (Deformable DETR, RT-DETR, D-FINE, RF-DETR) or with softmax and a
last class for nothing (DETR itself: `activation: softmax, background: last`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.detection.decoders.values import chosen_classes, finite, to_px, to_xyxy
from kd_perception.models.decoder_spec import DecoderSpec


def decode_boxes_scores(outputs: Sequence[np.ndarray], decoder: DecoderSpec, input_hw: tuple[int, int],
                        score_threshold: float) -> Detections:
    """Return each box once for each class whose score reaches the threshold."""
    boxes, values = outputs[0][0], outputs[1][0]
    rows, class_ids, scores = chosen_classes(values, decoder, score_threshold)
    chosen = to_px(to_xyxy(boxes[rows], decoder.box_format), decoder.box_units, input_hw)
    return finite(chosen, scores, class_ids)
