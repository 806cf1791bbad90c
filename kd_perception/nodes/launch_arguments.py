# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""How the launch files read their arguments: text in, values out, and errors that name the argument."""

from __future__ import annotations

from collections.abc import Mapping
import math
from pathlib import Path

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
    return [name.strip() for name in arguments['cameras'].split(',') if name.strip()]


def require_file(arguments: Mapping[str, str], name: str) -> None:
    """
    Check that an argument is the path of a file.

    :raises ValueError: it is not.
    """
    if not Path(arguments[name]).is_file():
        raise ValueError(f'{name}:={arguments[name]}: no such file')
