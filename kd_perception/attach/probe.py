# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What running a graph once tells: the sizes that it can have, and what its outputs hold."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from pathlib import Path

import numpy as np

from kd_perception.attach.description import Description
from kd_perception.attach.graph_facts import GraphFacts
from kd_perception.attach.recognise import image_port
from kd_perception.detection.letterbox import Letterbox
from kd_perception.detection.onnx_detector import to_tensor
from kd_perception.errors import ModelError
from kd_perception.models.spec import InputSpec

MULTIPLES = (2, 4, 8, 16, 32, 64, 128)
# Shares of an image reach a little over 1; pixels of any object are far more.
_MOST_SHARE = 2.0


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


def look_at_outputs(found: Description, outputs: dict[str, np.ndarray], image: Path | None) -> None:
    """
    Set what the values tell of a decoder `boxes_scores`: order and units of its boxes, logits or scores.

    What is set already is left alone.
    """
    names = found.get('decoder.outputs') or {}
    if found.get('decoder.type') != 'boxes_scores' or set(names) != {'boxes', 'scores'}:
        return
    boxes, scores = (outputs[names[part]][0] for part in ('boxes', 'scores'))
    source = f'the outputs on {image.name if image else "noise"}'
    logits = bool((scores < -1e-3).any() or (scores > 1 + 1e-3).any())
    shares = float(np.abs(boxes).max(initial=0)) <= _MOST_SHARE
    corners = bool((boxes[:, 2:] >= boxes[:, :2] - 1e-6).all())
    for name, value in (('activation', 'sigmoid' if logits else 'none'),
                        ('box_units', 'normalised' if shares else 'px'),
                        ('box_format', 'xyxy' if corners else 'cxcywh')):
        if found.get(f'decoder.{name}') is None:
            found.set(f'decoder.{name}', value, source)
