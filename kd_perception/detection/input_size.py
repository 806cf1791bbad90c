# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Which size a fully convolutional network looks at an image in.

A 16:9 image in a 10:3 input leaves half of it grey, and is shrunk by what the grey takes. With the
same number of pixels in the image's own aspect, objects are larger at the same cost.
"""

from __future__ import annotations

import re
from typing import Literal

from kd_perception.models.spec import InputSpec

# `camera`: the image's aspect, the model's number of pixels; `model`: the size in the file; else
# (height, width).
InputSize = Literal['camera', 'model'] | tuple[int, int]


def parse_input_size(text: str) -> InputSize:
    """
    Read `camera`, `model` or WIDTHxHEIGHT.

    :raises ValueError: the text is none of them.
    """
    if text == 'camera':
        return 'camera'
    if text == 'model':
        return 'model'
    try:
        return parse_size(text)
    except ValueError:
        raise ValueError(f'input size: expected camera, model or WIDTHxHEIGHT, got {text!r}') from None


def parse_size(text: str) -> tuple[int, int]:
    """
    Read WIDTHxHEIGHT; return (height, width) px.

    :raises ValueError: the text is something else.
    """
    match = re.fullmatch(r'([1-9][0-9]{0,4})x([1-9][0-9]{0,4})', text)
    if match is None:
        raise ValueError(f'expected WIDTHxHEIGHT, got {text!r}')
    return int(match[2]), int(match[1])


def input_hw(spec: InputSpec, wanted: InputSize, image_hw: tuple[int, int]) -> tuple[int, int]:
    """
    Return the (height, width) px that an image of `image_hw` is to be fitted into.

    :raises ValueError: the model cannot have the wanted size.
    """
    if isinstance(wanted, tuple):
        if not spec.allows(wanted):
            raise ValueError(f'input size {wanted[1]}x{wanted[0]}: the model takes {allowed_sizes(spec)}')
        return wanted
    if wanted == 'model' or spec.size_step is None:
        return spec.hw
    return _largest(spec.size_step, spec.height * spec.width, image_hw, spec.hw)


def allowed_sizes(spec: InputSpec) -> str:
    """Say in words which sizes a model can have."""
    own = f'{spec.width}x{spec.height}'
    return own if spec.size_step is None else f'{own}, or multiples of {spec.size_step} px'


def _largest(step: int, pixels: int, image_hw: tuple[int, int], own: tuple[int, int]) -> tuple[int, int]:
    """
    Return the size of at most so many pixels that shows the image largest; the smallest of equals.

    To enlarge an image shows nothing new: larger than its own size it counts as equal, unless the
    model's own size enlarges it more.
    """
    def scale(hw: tuple[int, int]) -> float:
        return min(hw[0] / image_hw[0], hw[1] / image_hw[1])
    enough = max(1.0, scale(own))

    def shown(hw: tuple[int, int]) -> tuple[float, int]:
        return min(scale(hw), enough), -hw[0] * hw[1]
    sizes = [(height, width) for height in range(step, pixels // step + 1, step)
             if (width := pixels // height // step * step)]
    # Narrower ones of the same height show the image as large, if height is what limits it.
    trimmed = [(height, min(width, max(step, -(-round(height * image_hw[1] / image_hw[0]) // step) * step)))
               for height, width in sizes]
    return max([own, *trimmed], key=shown)
