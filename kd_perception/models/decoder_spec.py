# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a model's metadata say about its outputs."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

MAX_ANCHORS = 100
MAX_STRIDES = 16
Column = Literal['image', 'x_min', 'y_min', 'x_max', 'y_max', 'score', 'class']
BOX_COLUMNS: tuple[Column, ...] = ('x_min', 'y_min', 'x_max', 'y_max')
ROWS: tuple[Column, ...] = (*BOX_COLUMNS, 'score', 'class')

# What a family does unless the metadata say otherwise: box_format, box_units, activation, background.
_OWN = {
    'gfl': ('xyxy', 'px', 'sigmoid', 'none'),
    'yolov2': ('cxcywh', 'px', 'softmax', 'none'),
    'boxes_scores': ('xyxy', 'px', 'none', 'none'),
    'yolo': ('cxcywh', 'px', 'none', 'none'),
    'yolox': ('cxcywh', 'px', 'none', 'none'),
    'end_to_end': ('xyxy', 'px', 'none', 'none'),
    'detr': ('cxcywh', 'normalised', 'sigmoid', 'none'),
    'ssd': ('cxcywh', 'normalised', 'none', 'first'),
}
_WITH_STRIDES = ('gfl', 'yolov2', 'yolox')
# The parts that the graph's outputs play; a family without an entry has one for each stride.
ROLES = {
    'boxes_scores': ('boxes', 'scores'),
    'yolo': ('predictions',),
    'yolox': ('predictions',),
    'end_to_end': ('rows', 'boxes', 'scores', 'labels', 'count'),
    'detr': ('boxes', 'scores'),
    'ssd': ('boxes', 'scores', 'priors'),
}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class DecoderSpec:
    """
    How outputs become boxes; the module of each type under `detection.decoders` gives its source.

    :param type: the family; see docs/reference/models.md.
    :param strides: px a cell, one per output level (gfl, yolox; yolov2: exactly one).
    :param reg_max: last bin of the box distributions, in cells (gfl).
    :param anchors_px: (width, height) of each anchor in px of the model input (yolov2). Darknet's
        own files give cells: multiply by the stride.
    :param outputs: part -> name of the graph's output that plays it, where the two differ. With
        end_to_end it lists the outputs that there are (default: `rows` alone).
    :param box_format: order of a box's four values (ssd: of its priors).
    :param box_units: px of the model input, or shares of its width and height.
    :param activation: what turns class values into scores; `none` where the graph did it.
    :param background: where the classes hold one that stands for nothing.
    :param objectness: a fifth value multiplies the class scores (yolo).
    :param arrangement: `channels_first` (1, values, N) or `channels_last` (1, N, values) (yolo);
        `maps`, `rows` or `table` (gfl).
    :param columns: what the columns of `rows` hold (end_to_end).
    :param variances: factors of the offsets of centre x, y, width and height (ssd).
    :param cell_offset: where a cell's point lies in it, in cells (gfl).
    """

    type: Literal['gfl', 'yolov2', 'boxes_scores', 'yolo', 'yolox', 'end_to_end', 'detr', 'ssd']
    strides: tuple[int, ...] = ()
    reg_max: int = 7
    anchors_px: tuple[tuple[float, float], ...] = ()
    outputs: dict[str, str] = dataclasses.field(default_factory=dict)
    box_format: Literal['xyxy', 'cxcywh', 'xywh', 'yxyx'] | None = None
    box_units: Literal['px', 'normalised'] | None = None
    activation: Literal['none', 'sigmoid', 'softmax'] | None = None
    background: Literal['none', 'first', 'last'] | None = None
    objectness: bool = False
    arrangement: Literal['channels_first', 'channels_last', 'maps', 'rows', 'table'] | None = None
    columns: tuple[Column, ...] = ()
    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    cell_offset: float = 0.5

    def __post_init__(self):
        """Fill in the family's own habits, and check ranges."""
        own = dict(zip(('box_format', 'box_units', 'activation', 'background'), _OWN[self.type]))
        own['arrangement'] = {'gfl': 'maps', 'yolo': 'channels_first'}.get(self.type)
        for name, value in own.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.type == 'end_to_end':
            self._fill_end_to_end()
        self._check()

    def _fill_end_to_end(self) -> None:
        if not self.outputs:
            object.__setattr__(self, 'outputs', {'rows': 'rows'})
        if 'rows' in self.outputs and not self.columns:
            object.__setattr__(self, 'columns', ROWS)

    def _check(self) -> None:
        kind = self.type
        _require(all(stride > 0 for stride in self.strides) and len(self.strides) <= MAX_STRIDES,
                 f'strides must be positive, at most {MAX_STRIDES}')
        _require(kind not in ('gfl', 'yolox') or bool(self.strides), f'strides are given with {kind}')
        _require(kind != 'yolov2' or len(self.strides) == 1, 'one stride is given with yolov2')
        _require(kind in _WITH_STRIDES or not self.strides,
                 f'strides are given only with {", ".join(_WITH_STRIDES)}')
        _require(1 <= self.reg_max <= 64, 'reg_max must be in 1..64')
        _require(bool(self.anchors_px) == (kind == 'yolov2'),
                 'anchors_px are given with yolov2, and only with yolov2')
        _require(len(self.anchors_px) <= MAX_ANCHORS, f'expected at most {MAX_ANCHORS} anchors_px')
        _require(all(math.isfinite(side) and side > 0 for anchor in self.anchors_px for side in anchor),
                 'anchors_px must be positive')
        allowed = {'gfl': ('maps', 'rows', 'table'),
                   'yolo': ('channels_first', 'channels_last')}.get(kind, (None,))
        _require(self.arrangement in allowed, f'arrangement: {kind} takes {_either(allowed)}')
        _require(not self.objectness or kind == 'yolo',
                 'objectness is given with yolo alone (yolox always has it)')
        _require(all(value > 0 for value in self.variances), 'variances must be positive')
        _require(0 <= self.cell_offset <= 1, 'cell_offset must be in 0..1')
        self._check_background()
        self._check_outputs()

    def _check_background(self) -> None:
        where = ('boxes_scores', 'detr', 'ssd')
        _require(self.background == 'none' or self.type in where,
                 f'background is given with {", ".join(where)}')
        fixed = self.type in ('yolov2', 'yolox', 'end_to_end')
        _require(not fixed or self.activation == _OWN[self.type][2], f'activation: {self.type} has its own')

    def _check_outputs(self) -> None:
        roles = self.roles()
        unknown = set(self.outputs) - set(roles)
        _require(not unknown,
                 f'outputs: {self.type} has no part {sorted(unknown)}; it has {", ".join(roles)}')
        _require(len(set(self.outputs.values())) == len(self.outputs), 'outputs: names must differ')
        _require(all(self.outputs.values()), 'outputs: names must not be empty')
        _require(bool(self.columns) == (self.type == 'end_to_end' and 'rows' in self.outputs),
                 'columns are given with the rows of end_to_end')
        if self.type == 'end_to_end':
            self._check_end_to_end()

    def _check_end_to_end(self) -> None:
        given = set(self.columns) | ({'score'} if 'scores' in self.outputs else set())
        given |= {'class'} if 'labels' in self.outputs else set()
        given |= set(BOX_COLUMNS) if 'boxes' in self.outputs else set()
        _require(len(set(self.columns)) == len(self.columns), 'columns must differ from one another')
        missing = {*BOX_COLUMNS, 'score'} - given
        _require(not missing, f'end_to_end: nothing gives {", ".join(sorted(missing))}')

    def roles(self) -> tuple[str, ...]:
        """Return the parts that outputs of this family can play, in the decoder's order."""
        if self.type == 'gfl' and self.arrangement == 'rows':
            return (*(f'scores_{s}' for s in self.strides), *(f'distances_{s}' for s in self.strides))
        if self.type == 'gfl' and self.arrangement == 'table':
            return ('predictions',)
        return ROLES.get(self.type) or tuple(f'level_{stride}' for stride in self.strides)

    def output_names(self) -> dict[str, str]:
        """Return part -> name of the graph's output, in the decoder's order, for the parts that there are."""
        if self.type == 'end_to_end':
            return {role: self.outputs[role] for role in self.roles() if role in self.outputs}
        return {role: self.outputs.get(role, role) for role in self.roles()}

    def class_values(self, classes: int) -> int:
        """Return how many class values a box has: the classes, and the background where there is one."""
        return classes + (self.background != 'none')


def _either(values: tuple) -> str:
    return ' or '.join(map(str, values)) if values != (None,) else 'none'
