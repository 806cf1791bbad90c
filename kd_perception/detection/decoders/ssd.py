# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The undecoded head of SSD (Liu et al., 'SSD: Single Shot MultiBox Detector', ECCV 2016).

For each prior box the graph gives four offsets and C + 1 class values, of which one is background. The
centre is prior centre + variance * offset * prior size, the size prior size * exp(variance * offset).
The priors are an output of the graph: (1, 2, 4 N) as Caffe and OpenVINO lay them out (corners, then
variances), else N times four values in the decoder's box format.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.detection.decoders.values import chosen_classes, finite, to_px, to_xyxy
from kd_perception.models.decoder_spec import DecoderSpec


def decode_ssd(outputs: Sequence[np.ndarray], decoder: DecoderSpec, input_hw: tuple[int, int],
               score_threshold: float) -> Detections:
    """
    Return the candidates of the priors whose score reaches the threshold.

    :param outputs: offsets (1, N, 4), class values (1, N, C + background), priors.
    :raises ValueError: the outputs disagree on the number of priors.
    """
    offsets, values = outputs[0][0], outputs[1][0]
    priors, variances = _priors(outputs[2], decoder, len(offsets))
    if len(values) != len(offsets):
        raise ValueError(f'{len(offsets)} boxes and {len(values)} rows of class values')
    rows, class_ids, scores = chosen_classes(values, decoder, score_threshold)
    if decoder.box_format == 'yxyx':  # TensorFlow: y before x throughout
        offsets = offsets[:, [1, 0, 3, 2]]
    prior, scaled = priors[rows], offsets[rows] * variances[rows]
    size = prior[:, 2:] - prior[:, :2]
    with np.errstate(over='ignore', invalid='ignore'):
        centre = prior[:, :2] + 0.5 * size + scaled[:, :2] * size
        half = 0.5 * size * np.exp(scaled[:, 2:])
        boxes = np.concatenate([centre - half, centre + half], axis=1)
    return finite(to_px(boxes, decoder.box_units, input_hw), scores, class_ids)


def _priors(output: np.ndarray, decoder: DecoderSpec, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return corners (N, 4) and variances (N, 4) of the priors."""
    if output.ndim == 3 and output.shape[1] == 2 and output.size == 8 * count:
        return output[0, 0].reshape(count, 4), output[0, 1].reshape(count, 4)
    if output.size != 4 * count:
        raise ValueError(f'{count} boxes and priors of shape {list(output.shape)}')
    variances = np.broadcast_to(np.array(decoder.variances, dtype=np.float32), (count, 4))
    return to_xyxy(output.reshape(count, 4), decoder.box_format), variances
