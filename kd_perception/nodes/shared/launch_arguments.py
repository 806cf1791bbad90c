# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""How the launch files read their arguments: text in, values out, and errors that name the argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from pathlib import Path
import re

BOOLEANS = {'true': True, 'false': False}


def boolean(arguments: Mapping[str, str], name: str, optional: bool = False) -> bool | None:
    """
    Return an argument as a truth value.

    :param optional: it may be empty, and is None then.
    :raises ValueError: it is neither true nor false.
    """
    text = arguments[name].lower()
    if optional and not text:
        return None
    if text not in BOOLEANS:
        raise ValueError(f'{name}:={arguments[name]}: expected true or false')
    return BOOLEANS[text]


def number(arguments: Mapping[str, str], name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """
    Return an argument as a number.

    :raises ValueError: it is none, or lies outside of `low` to `high`.
    """
    try:
        value = float(arguments[name])
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        bounds = f', {low:g} to {high:g}' if math.isfinite(low) and math.isfinite(high) else ''
        raise ValueError(f'{name}:={arguments[name]}: expected a number{bounds}')
    return value


def camera_names(arguments: Mapping[str, str]) -> list[str]:
    """Return the names that the argument `cameras` lists, separated by commas."""
    return _listed(arguments['cameras'])


def require_file(arguments: Mapping[str, str], name: str) -> None:
    """
    Check that an argument is the path of a file.

    :raises ValueError: it is not.
    """
    if not Path(arguments[name]).is_file():
        raise ValueError(f'{name}:={arguments[name]}: no such file')


def image_remappings(arguments: Mapping[str, str], cameras: Sequence[str]) -> list[tuple[str, str]]:
    """
    Return the remappings that the argument `image_topic` asks for, of raw and compressed images.

    :param cameras: the cameras, in order.
    :raises ValueError: the topics do not fit the cameras.
    """
    topics = _listed(arguments['image_topic'])
    if not topics:
        return []
    if not cameras:
        raise ValueError('image_topic: needs cameras, too: which camera is it of?')
    if len(topics) == 1 and '{camera}' in topics[0]:
        topics = [topics[0].replace('{camera}', camera.strip('/')) for camera in cameras]
    if len(topics) != len(cameras):
        raise ValueError(f'image_topic:={arguments["image_topic"]}: {len(topics)} topics for {len(cameras)} '
                         'cameras, expected one each, or one that contains {camera}')
    bases = [topic.rstrip('/').removesuffix('/compressed') for topic in topics]
    return [pair for camera, base in zip(cameras, bases) for pair in (
        (f'{camera}/image_raw', base), (f'{camera}/image_raw/compressed', f'{base}/compressed'))]


def named_models(arguments: Mapping[str, str]) -> dict[str, str]:
    """
    Return {name: model} of the argument `models`, such as `signs=/models/signs.onnx,lights=lights`.

    :raises ValueError: an entry is no such pair, or a name is none or comes twice.
    """
    found: dict[str, str] = {}
    for entry in _listed(arguments['models']):
        name, _, model = entry.partition('=')
        if not re.fullmatch('[A-Za-z_][A-Za-z0-9_]*', name) or not model or name in found:
            raise ValueError(f'models:={arguments["models"]}: expected NAME=MODEL,NAME=MODEL with names of '
                             f'letters, digits and _, each once; got {entry}')
        found[name] = model
    return found


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(',') if item.strip()]
