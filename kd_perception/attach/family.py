# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What recognition looks at, and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from kd_perception.attach.graph_facts import GraphFacts
from kd_perception.detection.decoders.gfl import strides_of
from kd_perception.detection.graph_ports import Port

STRIDE_SETS = ((8, 16, 32), (8, 16, 32, 64), (16, 32), (8, 16), (4, 8, 16, 32), (8, 16, 32, 64, 128))
COCO, COCO_NUMBERS = 80, (90, 91)


@dataclasses.dataclass(frozen=True)
class Recognised:
    """
    A family.

    :param preset: of `config/model_presets`. :param decoder: fields of `DecoderSpec`.
    :param reason: what it was recognised by. :param classes: how many the head has; None where it does not
        tell. :param constants: of other inputs; a value 'height' or 'width' stands for the input's.
    :param by_number: class numbers are COCO's own, from 1 and with gaps.
    """

    preset: str
    decoder: dict[str, Any]
    reason: str
    classes: int | None = None
    constants: dict[str, tuple[float | str, ...]] = dataclasses.field(default_factory=dict)
    by_number: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """
    A graph as recognition sees it.

    :param outputs: their shapes; where the graph leaves a size open, that of one run.
    :param input_hw: the input's size: places are counted with it.
    :param values: the outputs of one run by name; empty where it was not run.
    :param names: how many class names the user or the file gives; None where neither does.
    :param told: fields of the decoder that the user gives: they are not asked for.
    """

    facts: GraphFacts
    outputs: tuple[Port, ...]
    input_hw: tuple[int, int]
    values: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    names: int | None = None
    told: dict[str, Any] = dataclasses.field(default_factory=dict)

    def port(self, name: str) -> Port:
        """Return an output."""
        return next(port for port in self.outputs if port.name == name)

    def named(self, *names: str) -> list[str] | None:
        """Return the outputs of these names, what stands around them aside; None unless all are there."""
        found = {port.name.split('/')[-1].split(':')[0].lower(): port.name for port in self.outputs}
        return [found[name] for name in names] if all(name in found for name in names) else None

    def rows(self, name: str, columns: int) -> np.ndarray:
        """Return an output of one run as (N, columns); (0, columns) where it was not run."""
        return np.asarray(self.values.get(name, np.zeros((0, columns)))).reshape(-1, columns)

    def strides_of(self, places: int | None) -> tuple[int, ...] | None:
        """Return the strides that make so many cells, one place a cell; None where none do."""
        return strides_of(places, self.input_hw, STRIDE_SETS)


def sizes(port: Port) -> tuple[int | None, ...]:
    """Return an output's sizes, None for one that is not known."""
    return tuple(size if isinstance(size, int) else None for size in port.shape)


def image_port(facts: GraphFacts) -> Port | None:
    """Return the input that takes the image: the one of three or four axes, of which one has three values."""
    images = [port for port in facts.ports.inputs if len(port.shape) in (3, 4) and 3 in (
        port.shape[-1], port.shape[-3])]
    wide = [port for port in facts.ports.inputs if len(port.shape) == 4]
    images = images or wide
    return images[0] if len(images) == 1 else None


def with_sizes(ports: Sequence[Port], values: dict[str, np.ndarray]) -> tuple[Port, ...]:
    """Return outputs with the sizes of one run where the graph leaves them open; an empty list tells none."""
    return tuple(port if port.name not in values or 0 in values[port.name].shape
                 else dataclasses.replace(port, shape=tuple(values[port.name].shape)) for port in ports)
