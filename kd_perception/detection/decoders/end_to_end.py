# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Models that end in boxes, with non-maximum suppression inside or without need of it.

A detection is a row of one table, or spread over several outputs. Known forms:

- (1, N, 6): x_min, y_min, x_max, y_max, score, class: YOLOv10 and later, and exports with NMS.
- (N, 7): image, x_min, y_min, x_max, y_max, class, score (YOLOv7), or score, class (YOLO-NAS).
- (N, 6): class, score, x_min, y_min, x_max, y_max and a count: PaddleDetection.
- (1, 1, N, 7): image, class, score, box as shares; image -1 ends the list: OpenVINO's DetectionOutput.
- boxes, scores, labels: torchvision, RT-DETR and D-FINE with their own post-processor.
- (N, 5) boxes with score, and labels: MMDetection, Intel's person-vehicle-bike detectors.
- boxes as y, x, y, x shares, scores, classes, a count: TensorFlow's Object Detection API; TensorRT's
  EfficientNMS has the same with x, y, x, y.

Class numbers are taken as they are: a model that counts from 1 names an empty class 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.detection.decoders.values import finite, to_px, to_xyxy
from kd_perception.models.decoder_spec import BOX_COLUMNS, DecoderSpec


def decode_end_to_end(parts: Mapping[str, np.ndarray], decoder: DecoderSpec, classes: int,
                      input_hw: tuple[int, int], score_threshold: float) -> Detections:
    """
    Return the detections that reach the threshold.

    A row that belongs to another image of the batch, or whose class number the model does not name, is
    none.

    :param parts: outputs by the part that they play.
    :raises ValueError: the outputs disagree on the number of rows.
    """
    fields = _fields(parts, decoder)
    count = len(fields['score'])
    if any(len(value) != count for value in fields.values()):
        raise ValueError('the outputs disagree on the number of detections: '
                         + ', '.join(f'{name} {len(value)}' for name, value in fields.items()))
    class_numbers = fields.get('class', np.zeros(count, dtype=np.float32))
    known = np.isfinite(class_numbers) & (class_numbers >= 0) & (class_numbers < classes)
    keep = known & _present(parts, fields, count) & (fields['score'] >= score_threshold)
    boxes = to_px(to_xyxy(fields['boxes'][keep], decoder.box_format), decoder.box_units, input_hw)
    return finite(boxes, np.minimum(fields['score'][keep], 1), class_numbers[keep].astype(np.int64))


def _fields(parts: Mapping[str, np.ndarray], decoder: DecoderSpec) -> dict[str, np.ndarray]:
    fields: dict[str, np.ndarray] = {}
    if 'rows' in parts:
        table = parts['rows'].reshape(-1, len(decoder.columns))
        column = {name: i for i, name in enumerate(decoder.columns)}
        if 'x_min' in column:
            fields['boxes'] = table[:, [column[name] for name in BOX_COLUMNS]]
        fields.update({name: table[:, column[name]]
                       for name in ('score', 'class', 'image') if name in column})
    if 'boxes' in parts:
        fields['boxes'] = parts['boxes'].reshape(-1, 4)
    for role, name in (('scores', 'score'), ('labels', 'class')):
        if role in parts:
            fields[name] = parts[role].reshape(-1).astype(np.float32)
    return fields


def _present(parts: Mapping[str, np.ndarray], fields: Mapping[str, np.ndarray], count: int
             ) -> np.ndarray:
    """(N,) bool: rows that the model means: of the first image, before the end of the list."""
    places = np.arange(count)
    present = np.ones(count, dtype=bool)
    if 'count' in parts:
        present &= places < int(np.asarray(parts['count']).reshape(-1)[0])
    if 'image' in fields:
        ends = np.flatnonzero(fields['image'] < 0)
        present &= (fields['image'] == 0) & (places < (ends[0] if len(ends) else count))
    return present
