# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
One view of all heads, for losses that compare the outputs of two detectors.

A reader turns a network's named maps into a `HeadView`. Readers for the heads of this package are
here; for another head write a function of the same form (docs/how-to/attach_detector.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses

import torch
from torch import nn
from torch.nn import functional

from kd_perception.errors import TrainingError
from kd_perception.training.networks.yolov2_head import YoloV2

_LOG_EPSILON = 1e-7


@dataclasses.dataclass(frozen=True, eq=False)
class HeadView:
    """
    What a head says about N images at P places (cells, or cells times anchors).

    :param logits: (N, P, C) log-odds of each class being there: sigmoid gives the score.
    :param boxes: (N, P, 4) xyxy as shares of the image's width and height.
    :param distributions: (N, P, 4, bins) logits of the left, top, right and bottom distances in
        cells; None for heads without.
    """

    logits: torch.Tensor
    boxes: torch.Tensor
    distributions: torch.Tensor | None = None


HeadReader = Callable[[Mapping[str, torch.Tensor]], HeadView]


def log_odds(log_probability: torch.Tensor) -> torch.Tensor:
    """Return log(p / (1 - p)) from log p, with p kept below 1 by a rounding error."""
    log_probability = log_probability.clamp_max(-_LOG_EPSILON)
    return log_probability - torch.log1p(-log_probability.exp())  # expm1 cannot be exported to ONNX


def cell_grid(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Return the column and row (height * width, 2) float32 of each cell, row by row."""
    rows, columns = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device),
                                   indexing='ij')
    return torch.stack([columns, rows], dim=-1).reshape(-1, 2).float()


def gfl_reader(levels: Sequence[str], classes: int, reg_max: int) -> HeadReader:
    """
    Read a generalised focal loss head: maps (N, classes + 4 * (reg_max + 1), h, w), see `decode`.

    :param levels: names of the maps, in the order in which the places are to stand. Their strides must
        divide the input's size: a cell is taken as 1/w by 1/h of the image.
    """
    def read(named: Mapping[str, torch.Tensor]) -> HeadView:
        views = [_read_gfl(_map(named, name), name, classes, reg_max) for name in levels]
        return HeadView(torch.cat([v.logits for v in views], 1), torch.cat([v.boxes for v in views], 1),
                        torch.cat([v.distributions for v in views], 1))
    return read


def _read_gfl(level: torch.Tensor, name: str, classes: int, reg_max: int) -> HeadView:
    if level.shape[1] != classes + 4 * (reg_max + 1):
        raise TrainingError(f'{name}: has {level.shape[1]} channels, expected {classes + 4 * (reg_max + 1)} '
                            f'for {classes} classes and reg_max {reg_max}')
    height, width = level.shape[-2:]
    flat = level.flatten(2).transpose(1, 2)
    distributions = flat[..., classes:].reshape(*flat.shape[:2], 4, reg_max + 1)
    bins = torch.arange(reg_max + 1, dtype=flat.dtype, device=flat.device)
    distances = (distributions.softmax(-1) * bins).sum(-1)
    centres = cell_grid(height, width, level.device) + 0.5
    boxes = torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], -1)
    boxes = boxes / boxes.new_tensor([width, height, width, height])
    return HeadView(flat[..., :classes], boxes, distributions)


def yolov2_reader(level: str, classes: int, anchors_px: Sequence[tuple[float, float]], stride: int
                  ) -> HeadReader:
    """Read a YOLOv2 head (N, A * (5 + classes), h, w), see `decode`; anchors in px of the input."""
    def read(named: Mapping[str, torch.Tensor]) -> HeadView:
        raw = _map(named, level)
        count, (height, width) = len(anchors_px), raw.shape[-2:]
        cells = raw.reshape(len(raw), count, 5 + classes, height * width).transpose(2, 3)
        logits = log_odds(functional.logsigmoid(cells[..., 4:5]) + cells[..., 5:].log_softmax(-1))
        centres = cell_grid(height, width, raw.device) + cells[..., :2].sigmoid()
        anchors = raw.new_tensor(anchors_px)[:, None] / stride
        # A bound far above any image keeps an early, wild prediction from overflowing.
        half = 0.5 * anchors * cells[..., 2:4].clamp_max(10).exp()
        boxes = torch.cat([centres - half, centres + half], -1)
        boxes = boxes / raw.new_tensor([width, height, width, height])
        return HeadView(logits.flatten(1, 2), boxes.flatten(1, 2))
    return read


def reader_of(network: nn.Module, levels: Sequence[str] | None = None) -> HeadReader:
    """
    Return the reader of one of this package's networks.

    :param levels: names of a generalised focal loss head's maps; None for all.
    :raises TrainingError: the network's head is not known here.
    """
    if isinstance(network, YoloV2):
        return yolov2_reader(network.head_levels[0], network.classes, network.anchors_px, network.strides[0])
    if hasattr(network, 'reg_max') and hasattr(network, 'classes'):
        names = tuple(levels or (f'level_{stride}' for stride in network.strides))
        return gfl_reader(names, network.classes, network.reg_max)
    raise TrainingError(f'{type(network).__name__}: its head is not known; give a reader '
                        '(docs/how-to/attach_detector.md)')


def _map(named: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in named:
        raise TrainingError(f'the network has no map {name!r}; it has {", ".join(named)}')
    return named[name]
