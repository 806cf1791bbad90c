# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
ncnn's two files: the text of the layers (.param) and their weights (.bin).

Format: github.com/Tencent/ncnn, its guide's page 'param and model file structure'. A line of the text
holds a layer's type, name, number of inputs and outputs, their names, and parameters `number=value`; a number
of -23300 - n stands for the array n.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from kd_perception.errors import ModelError
from kd_perception.files import read_text
from kd_perception.models.model_bytes import read_model

MAGIC = '7767517'
MAX_PARAM_BYTES = 16 << 20
MAX_LAYERS = 10_000
_ARRAYS = -23300
# What stands in front of a layer's weights.
_FLOAT32, _FLOAT16 = 0, 0x01306B47


@dataclasses.dataclass(frozen=True)
class Layer:
    """
    One line of the .param file.

    :param values: parameters by number, as text; those of an array are a tuple.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: dict[int, str | tuple[str, ...]]

    def number(self, key: int, default: float = 0) -> float:
        """Return a parameter."""
        return self._read(self.values.get(key, str(default)), key)

    def whole(self, key: int, default: int = 0) -> int:
        """Return a parameter that is a whole number."""
        return int(self.number(key, default))

    def array(self, key: int) -> list[float]:
        """Return a parameter that is an array; empty where it is not given."""
        values = self.values.get(key, ())
        if isinstance(values, str):
            raise ValueError(f'parameter {key} is {values}, expected an array')
        return [self._read(value, key) for value in values]

    @staticmethod
    def _read(value: str | tuple[str, ...], key: int) -> float:
        if isinstance(value, tuple):
            raise ValueError(f'parameter {key} is an array, expected one number')
        return float(value)


def read_layers(path: Path) -> list[Layer]:
    """
    Read a .param file.

    :raises ModelError: it is none; the message names the line.
    """
    lines = read_text(path, MAX_PARAM_BYTES, ModelError).splitlines()
    if not lines or lines[0].strip() != MAGIC:
        raise ModelError(f"{path}: is not a text file of ncnn's layers: its first line is not {MAGIC}")
    layers = []
    for number, line in enumerate(lines[2:], 3):
        words = line.split()
        if not words:
            continue
        try:
            layers.append(_layer(words))
        except (ValueError, IndexError) as error:
            raise ModelError(f'{path}: line {number}: is no layer of ncnn: {line.strip()[:80]!r}') from error
    if not 0 < len(layers) <= MAX_LAYERS:
        raise ModelError(f'{path}: holds {len(layers)} layers, expected 1 to {MAX_LAYERS}')
    return layers


def _layer(words: list[str]) -> Layer:
    kind, name, inputs, outputs = words[0], words[1], int(words[2]), int(words[3])
    names, rest = words[4:4 + inputs + outputs], words[4 + inputs + outputs:]
    if len(names) != inputs + outputs or inputs < 0 or outputs < 0:
        raise ValueError('names are missing')
    values: dict[int, str | tuple[str, ...]] = {}
    for word in rest:
        key, value = word.split('=')
        if int(key) > _ARRAYS:
            values[int(key)] = value
        else:
            values[_ARRAYS - int(key)] = tuple(value.split(',')[1:])
    return Layer(kind, name, tuple(names[:inputs]), tuple(names[inputs:]), values)


class Weights:
    """
    The .bin file, read from its beginning to its end in the order of the layers.

    :raises ModelError: it is missing; reading: it ends too early, or holds weights of another kind.
    """

    def __init__(self, path: Path):
        self.path = path
        self._content, self._at = read_model(path)[0], 0

    def tensor(self, count: int, layer: str) -> np.ndarray:
        """Return the next weights (count,) float32, whose storage a mark in front of them tells."""
        mark = int(self._take(1, np.dtype('<u4'), layer)[0])
        if mark not in (_FLOAT32, _FLOAT16):
            raise ModelError(f'{self.path}: layer {layer}: weights of kind {mark:#x}, expected float32 or '
                             'float16: is it a quantised model, or of another .param file?')
        values = self._take(count, np.dtype('<f4' if mark == _FLOAT32 else '<f2'), layer)
        self._at += -self._at % 4
        return values.astype(np.float32)

    def plain(self, count: int, layer: str) -> np.ndarray:
        """Return the next values (count,) float32 that have no mark: a bias."""
        return self._take(count, np.dtype('<f4'), layer)

    def check_end(self) -> None:
        """Check that nothing is left."""
        if self._at < len(self._content):
            raise ModelError(f'{self.path}: {len(self._content) - self._at} bytes are left after the last '
                             'layer: is it of another .param file?')

    def _take(self, count: int, kind: np.dtype, layer: str) -> np.ndarray:
        end = self._at + count * kind.itemsize
        if count < 1 or end > len(self._content):
            raise ModelError(f'{self.path}: ends within layer {layer}, which needs {count} values at byte '
                             f'{self._at} of {len(self._content)}')
        values = np.frombuffer(self._content, kind, count, self._at)
        self._at = end
        return values
