# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What running a graph once tells: the sizes that it can have, and what its outputs hold."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from pathlib import Path

import numpy as np

from kd_perception.attach.description import Description
from kd_perception.attach.family import image_port
from kd_perception.attach.graph_facts import GraphFacts
from kd_perception.detection.letterbox import Letterbox
from kd_perception.detection.onnx_detector import to_tensor
from kd_perception.detection.output_checks import output_values, OutputValues
from kd_perception.errors import ModelError
from kd_perception.models.decoder_spec import DecoderSpec
from kd_perception.models.spec import InputSpec

MULTIPLES = (2, 4, 8, 16, 32, 64, 128)
# Shares of an image reach a little over 1; pixels of any object are far more.
_MOST_SHARE = 2.0
# Rows below it fill a list up.
LEAST_SCORE = 0.05


def run_once(facts: GraphFacts, spec: InputSpec, image_bgr: np.ndarray | None = None
             ) -> dict[str, np.ndarray]:
    """
    Run a graph on one image (noise where none is given).

    :return: all outputs by name.
    :raises ModelError: it does not run at this size; the message names a multiple that it needs.
    """
    port = image_port(facts)
    fixed = [size for axis, size in zip(spec.layout, port.shape) if axis in 'HW']
    onnx_fixed = not facts.weights and all(isinstance(size, int) for size in fixed)
    if onnx_fixed and fixed != [spec.height, spec.width]:
        raise ModelError(f'{facts.path}: its input is fixed at {fixed[1]}x{fixed[0]} px, not '
                         f'{spec.width}x{spec.height}; export it with dynamic height and width to choose')
    try:
        return _run(facts, spec, image_bgr)
    except Exception as error:  # each runtime has a family of its own
        multiple = None if onnx_fixed else needed_multiple(
            spec.hw, lambda hw: _runs(facts, spec, hw))
        if multiple is None:
            raise ModelError(f'{facts.path}: does not run on {spec.width}x{spec.height} px: '
                             f'{str(error).strip().splitlines()[0][:200]}') from error
        height, width = rounded(spec.hw, multiple)
        raise ModelError(f'{facts.path}: cannot take {spec.width}x{spec.height} px: its height and width '
                         f'must be multiples of {multiple}, such as {width}x{height}') from error


def needed_multiple(hw: tuple[int, int], runs: Callable[[tuple[int, int]], bool]) -> int | None:
    """Return the least of `MULTIPLES` to which a size can be rounded up so that it runs, None if none."""
    tried: dict[tuple[int, int], bool] = {hw: False}
    for multiple in MULTIPLES:
        size = rounded(hw, multiple)
        if size not in tried:
            tried[size] = runs(size)
        if tried[size]:
            return multiple
    return None


def rounded(hw: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return a size rounded up."""
    return -(-hw[0] // multiple) * multiple, -(-hw[1] // multiple) * multiple


def _runs(facts: GraphFacts, spec: InputSpec, hw: tuple[int, int]) -> bool:
    try:
        _run(facts, dataclasses.replace(spec, height=hw[0], width=hw[1]), None)
    except Exception:
        return False
    return True


def _run(facts: GraphFacts, spec: InputSpec, image_bgr: np.ndarray | None) -> dict[str, np.ndarray]:
    if image_bgr is None:
        image_bgr = np.random.default_rng(0).integers(0, 256, (*spec.hw, 3), dtype=np.uint8)
    letterbox = Letterbox.fit(image_bgr.shape[:2], spec.hw, spec.fit)
    tensor = to_tensor(letterbox.apply(image_bgr, spec.pad_value), spec)
    feeds = {image_port(facts).name: tensor}
    for other in facts.ports.inputs:
        if other.name in spec.constants:
            shape = (1,) * (len(other.shape) - 1) + (-1,) if other.shape else ()
            feeds[other.name] = np.array(spec.constants[other.name]).astype(other.dtype).reshape(shape)
    return facts.session({name: value.shape for name, value in feeds.items()})(feeds)


def look_at_outputs(found: Description, decoder: DecoderSpec, outputs: dict[str, np.ndarray],
                    image: Path | None) -> None:
    """
    Set what the values tell of a decoder: order and units of its boxes, logits or scores.

    What is set already is left alone.

    :param decoder: as known so far; `outputs`: of one run, by name.
    """
    parts = {part: outputs[name] for part, name in decoder.output_names().items() if name in outputs}
    if set(parts) != set(decoder.output_names()) or decoder.type not in (
            'boxes_scores', 'yolo', 'ssd', 'end_to_end'):
        return
    values = output_values(parts, decoder, LEAST_SCORE)
    where = f'the outputs on {image.name if image else "noise"}'

    def tell(name: str, value: str, source: str = where) -> None:
        if found.get(f'decoder.{name}') is None:
            found.set(f'decoder.{name}', value, source)
    if decoder.type != 'end_to_end':
        _tell_activation(tell, decoder, values)
    boxes = values.boxes
    if boxes is None:
        return
    boxes = boxes[np.isfinite(boxes).all(axis=1) & boxes.any(axis=1)]
    if not len(boxes):
        tell('box_units', decoder.box_units, f'a guess: nothing found on {image.name if image else "noise"}')
        return
    tell('box_units', 'normalised' if np.median(np.abs(boxes).max(axis=1)) <= _MOST_SHARE else 'px')
    if decoder.type != 'end_to_end':
        corners = bool((boxes[:, 2:] >= boxes[:, :2] - 1e-6).all())
        tell('box_format', 'xyxy' if corners else 'cxcywh')


def _tell_activation(tell: Callable[..., None], decoder: DecoderSpec, found: OutputValues) -> None:
    """Scores lie within 0 and 1; of logits the values do not tell whether classes exclude one another."""
    values = found.scores if found.logits is None else found.logits
    if values is None or not ((values < -1e-3).any() or (values > 1 + 1e-3).any()):
        tell('activation', 'none')
    elif decoder.type == 'yolo':
        tell('activation', 'sigmoid')
    elif decoder.background != 'none':
        tell('activation', 'softmax',
             'a guess: logits with a background; else --set decoder.activation=sigmoid')
    else:
        tell('activation', 'sigmoid', 'a guess: logits; else --set decoder.activation=softmax')
