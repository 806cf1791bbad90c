# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Are a model's outputs what its description says? Values that decode without an error may still be nonsense.

Logits taken for scores, shares of the input taken for px, centre and size taken for corners: nothing of it
fails, the detections are merely wrong, or there are none. The values of a few made images tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from kd_perception.detection.decode import output_shapes
from kd_perception.detection.decoders.values import to_xyxy
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import ModelError
from kd_perception.models.decoder_spec import BOX_COLUMNS, DecoderSpec
from kd_perception.models.spec import ModelSpec

# Rounding of a sigmoid or softmax computed in 16 bits.
_ROUNDING = 2e-3
# Boxes in px of an input of 16 px or more are larger than this; shares of the input are not.
_LARGEST_SHARE = 2.0
# Places that saw nothing may give any box; more than this share of turned ones is another format.
_FEW = 0.05


@dataclasses.dataclass(frozen=True)
class OutputValues:
    """
    What the values of one image's outputs stand for.

    :param boxes: (N, 4) as the model gave them, in the decoder's box format; None: not given as such.
    :param scores: values that are declared to be scores; None: the decoder makes scores of them itself.
    :param logits: (N, C) values that go through a sigmoid or softmax; None: none do.
    :param numbers: class numbers of detections; None: a class is a column.
    """

    boxes: np.ndarray | None = None
    scores: np.ndarray | None = None
    logits: np.ndarray | None = None
    numbers: np.ndarray | None = None


def check_detector(detector: OnnxDetector) -> None:
    """
    Run a model on a few made images and check every output.

    :raises ModelError: one line that names the file, the output and what to change in its description.
    """
    for image in test_images(detector.spec.input.hw):
        problem = next(output_problems(detector.outputs(image), detector.spec), None)
        if problem:
            raise ModelError(f'{detector.path or detector.spec.name}: {problem}')


def test_images(input_hw: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield a grey image, noise (seeded), and rectangles on a gradient, (H, W, 3) uint8 BGR each."""
    height, width = input_hw
    yield np.full((height, width, 3), 114, np.uint8)
    yield np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = np.empty((height, width, 3), np.uint8)
    image[:] = np.linspace(60, 200, height).astype(np.uint8)[:, None, None]
    for part in range(4):
        top, left = height * (part + 1) // 7, width * part // 5
        image[top:top + height // 4, left:left + width // 6] = (40 * part, 220 - 50 * part, 30 + 60 * part)
    yield image


def output_problems(outputs: Sequence[np.ndarray], spec: ModelSpec) -> Iterator[str]:
    """
    Yield what is wrong with one image's outputs, the plainest first; nothing where all may be right.

    :param outputs: arrays in the order of `output_shapes(spec)`, batch axis included.
    """
    decoder = spec.decoder
    named = dict(zip(output_shapes(spec), outputs))
    for name, values in named.items():
        bad = np.count_nonzero(np.isnan(values) | np.isposinf(values)) if values.dtype.kind == 'f' else 0
        if bad:
            yield f'output {name!r} holds {bad} values of {values.size} that are NaN or infinite'
    parts = dict(zip(decoder.output_names(), outputs))
    found = output_values(parts, decoder, spec.thresholds.score_low)
    yield from _score_problems(found, decoder)
    if found.numbers is not None and len(found.numbers):
        low, high, last = found.numbers.min(), found.numbers.max(), spec.network_classes - 1
        if low < 0 or high > last or (found.numbers % 1).any():
            yield (f'class numbers go from {low:g} to {high:g}, expected whole ones from 0 to {last} (a '
                   'model that counts from 1 names an empty class 0)')
    if found.boxes is not None:
        yield from _box_problems(found.boxes, decoder, spec.input.hw)


def output_values(parts: Mapping[str, np.ndarray], decoder: DecoderSpec, score_low: float) -> OutputValues:
    """
    Find boxes, scores, logits and class numbers among the outputs of a family.

    :param parts: outputs by the part that they play. :param score_low: from which a row of a list counts.
    """
    if decoder.type == 'end_to_end':
        return _rows(parts, decoder, score_low)
    if decoder.type in ('boxes_scores', 'detr', 'ssd'):
        boxes, values = parts['boxes'][0], parts['scores'][0]
        boxes = None if decoder.type == 'ssd' else boxes
    elif decoder.type in ('yolo', 'yolox'):
        table = parts['predictions'][0]
        table = table.T if decoder.arrangement == 'channels_first' else table
        boxes, values = None if decoder.type == 'yolox' else table[:, :4], table[:, 4:]
    else:
        return OutputValues()
    return (OutputValues(boxes, scores=values) if decoder.activation == 'none'
            else OutputValues(boxes, logits=values))


def _rows(parts: Mapping[str, np.ndarray], decoder: DecoderSpec, score_low: float) -> OutputValues:
    """Take the rows that are detections: of a score that counts, in front of the end of the list."""
    columns = {name: i for i, name in enumerate(decoder.columns)}
    table: Any = parts['rows'].reshape(-1, len(decoder.columns)) if 'rows' in parts else None

    def field(role: str, column: str) -> Any:
        if role in parts:
            return parts[role].reshape(-1).astype(np.float64)
        return table[:, columns[column]] if column in columns else None

    scores, numbers = field('scores', 'score'), field('labels', 'class')
    boxes = parts['boxes'].reshape(-1, 4) if 'boxes' in parts else table[:, [
        columns[name] for name in BOX_COLUMNS]]
    count = int(np.asarray(parts['count']).reshape(-1)[0]) if 'count' in parts else len(scores)
    images = table[:, columns['image']] if 'image' in columns else np.zeros(len(scores))
    ends = np.flatnonzero(images < 0)
    count = min([count, len(scores), *ends[:1]])
    # Rows without a score fill the table up, and a box that nothing stands behind may lie anywhere.
    real = np.abs(scores[:count]) >= score_low
    return OutputValues(boxes[:count][real], scores[:count][real],
                        numbers=None if numbers is None else numbers[:count][real])


def _score_problems(found: OutputValues, decoder: DecoderSpec) -> Iterator[str]:
    if found.scores is not None and found.scores.size:
        low, high = float(found.scores.min()), float(found.scores.max())
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            hint = '' if decoder.type in ('end_to_end', 'yolox') else (
                '; logits need `activation: sigmoid` or `softmax` in the decoder')
            yield f'scores go from {low:g} to {high:g}, expected 0 to 1{hint}'
    if found.logits is None or found.logits.size < 2:
        return
    low, high = float(found.logits.min()), float(found.logits.max())
    if low < 0 or high > 1 or low == high:
        return      # scores are never below 0, logits of an empty place nearly always
    if decoder.activation == 'sigmoid' or np.allclose(found.logits.sum(axis=-1), 1, atol=_ROUNDING):
        yield (f'values go from {low:g} to {high:g}: scores already, and `activation: {decoder.activation}` '
               'would make scores of them again; `none` expected')


def _box_problems(boxes: np.ndarray, decoder: DecoderSpec, input_hw: tuple[int, int]) -> Iterator[str]:
    boxes = boxes[np.isfinite(boxes).all(axis=1) & boxes.any(axis=1)]     # zeros fill a list up
    if not len(boxes):
        return
    size = f'{input_hw[1]}x{input_hw[0]}'
    largest = np.abs(boxes).max(axis=1)
    if decoder.box_units == 'px' and min(input_hw) >= 16 and np.median(largest) <= _LARGEST_SHARE:
        yield (f'most boxes lie within {_LARGEST_SHARE:g} px of a corner of the input of {size} px; '
               'shares of it need `box_units: normalised` in the decoder')
        return
    if decoder.box_units == 'normalised' and np.median(largest) > _LARGEST_SHARE:
        yield (f'boxes reach {largest.max():g} times the width of the input; px need `box_units: px` in the '
               'decoder')
        return
    corners = to_xyxy(boxes, decoder.box_format)
    turned = (corners[:, 2:] < corners[:, :2]).any(axis=1)
    if turned.mean() > _FEW:
        yield (f'{int(turned.sum())} of {len(boxes)} boxes end before they begin (x_max < x_min or y_max < '
               f'y_min) as `box_format: {decoder.box_format}`; is it another of xyxy, cxcywh, xywh, yxyx?')
        return
    side = np.array(input_hw[::-1]) if decoder.box_units == 'px' else np.ones(2)
    centres = (corners[:, :2] + corners[:, 2:]) / 2 / side
    if ((centres < 0) | (centres > 1)).any(axis=1).mean() > 0.5:
        yield (f'most boxes lie outside the input of {size} px (the first: '
               f'{" ".join(f"{value:g}" for value in boxes[0])}); are they px of another size?')
