# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What goes into a graph and comes out of it, whatever runs it, held against the metadata."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from kd_perception.detection.decode import output_shapes, shape_fits
from kd_perception.errors import ModelError
from kd_perception.models.spec import InputSpec, ModelSpec

NUMBERS = ('uint8', 'int32', 'int64', 'float16', 'float32', 'float64', 'bool')


@dataclasses.dataclass(frozen=True)
class Port:
    """
    An input or output.

    :param dtype: as numpy calls it, else as the runtime does.
    :param shape: a size that is not fixed is a name or None.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclasses.dataclass(frozen=True)
class GraphPorts:
    """All inputs and outputs of a graph."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def free_sizes(self, spec: InputSpec, path: Path) -> tuple[str, ...]:
        """
        Return the names of the graph's free height and width; empty where the metadata fix the size.

        :raises ModelError: the metadata leave the size free and the graph does not.
        """
        if spec.size_step is None:
            return ()
        shapes = [port.shape for port in self.inputs if port.name not in spec.constants]
        sizes = [shape[spec.layout.index(axis)] for shape in shapes
                 if len(shape) == len(spec.layout) for axis in 'HW']
        if len(sizes) != 2 or not all(isinstance(size, str) for size in sizes) or sizes[0] == sizes[1]:
            raise ModelError(
                f'{path}: the metadata promise sizes of multiples of {spec.size_step} px, but the graph does '
                f'not leave height and width free: {[list(s) for s in shapes]}')
        return tuple(map(str, sizes))

    def open_sizes(self, spec: InputSpec) -> dict[str, int]:
        """Return the values that the metadata give to the named sizes of the image's input."""
        sizes: dict[str, int] = {}
        for port in self.inputs:
            if port.name not in spec.constants and len(port.shape) == len(spec.shape):
                sizes.update({have: want for have, want in zip(port.shape, spec.shape)
                              if isinstance(have, str)})
        return sizes


def check_inputs(ports: GraphPorts, spec: InputSpec, path: Path, any_size: bool = False
                 ) -> tuple[str, dict[str, np.ndarray]]:
    """
    Return the name of the image's input, and what the others are fed with.

    :param any_size: the runtime can give the graph another height and width than it has.
    :raises ModelError: the graph's inputs are not what the metadata promise.
    """
    found = {port.name: port for port in ports.inputs}
    unknown = sorted(set(spec.constants) - set(found))
    if unknown:
        raise ModelError(f'{path}: has no input {unknown[0]!r}, for which the metadata give values; '
                         f'inputs: {", ".join(found)}')
    images = [entry for name, entry in found.items() if name not in spec.constants]
    if len(images) != 1:
        raise ModelError(f'{path}: has {len(images)} inputs ({", ".join(e.name for e in images)}), not '
                         'counting those of input.constants; expected one image')
    image = images[0]
    wanted = tuple(None if any_size and axis in 'HW' else size
                   for axis, size in zip(spec.layout, spec.shape))
    if image.dtype != spec.dtype or not shape_fits(image.shape, wanted):
        raise ModelError(
            f'{path}: input {image.name!r} is {image.dtype} {list(image.shape)}, '
            f'the metadata promise {spec.dtype} {show_shape(spec.shape)}')
    return image.name, {name: _constant(found[name], values, path)
                        for name, values in spec.constants.items()}


def _constant(port: Port, values: tuple[float, ...], path: Path) -> np.ndarray:
    """Return an input's values in the type and the number of axes that the graph declares."""
    shape = (1,) * (len(port.shape) - 1) + (len(values),) if port.shape else ()
    if port.dtype not in NUMBERS or not shape_fits(port.shape, shape) or (not shape and len(values) != 1):
        raise ModelError(f'{path}: input {port.name!r} is {port.dtype} {list(port.shape)}, the metadata '
                         f'give it {len(values)} numbers')
    return np.array(values).astype(port.dtype).reshape(shape)


def check_outputs(ports: GraphPorts, spec: ModelSpec, path: Path) -> None:
    """
    Check that the graph gives what the decoder needs.

    :raises ModelError: an output is missing or of another shape.
    """
    found = {port.name: port for port in ports.outputs}
    for name, shape in output_shapes(spec).items():
        if name not in found:
            raise ModelError(
                f'{path}: has no output {name!r}, which decoder {spec.decoder.type!r} needs; '
                f'outputs: {", ".join(found)}')
        if not shape_fits(found[name].shape, shape):
            raise ModelError(
                f'{path}: output {name!r} has shape {list(found[name].shape)}, expected {show_shape(shape)} '
                f'for {_classes(spec)} and decoder {spec.decoder.type!r}')


def _classes(spec: ModelSpec) -> str:
    return f'{spec.network_classes} {"labels" if spec.classes is None else "classes of the network"}'


def show_shape(shape: tuple) -> str:
    """Return a shape of `output_shapes` as text."""
    texts = {None: 'any', ...: '...'}
    return '[' + ', '.join(texts.get(size, str(size)) for size in shape) + ']'
