# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a training configuration may say about the network."""

from __future__ import annotations

import dataclasses
from typing import Literal

YOLOV2_KINDS = ('darknet19_yolov2', 'mobilenet_v1_yolov2')


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
    """
    The network's architecture.

    :param kind: `picodet_s` (the teacher), `plain` (the default student), or one of the published
        binary-weight detectors.
    :param width: factor of the channel counts (plain).
    :param channels: at strides 2, 4, 8, 16 and 32, before `width`; a sixth number adds a level at
        stride 64 (plain).
    :param blocks: same-size blocks after the downsampling to strides 4, 8, 16, 32 (and 64) (plain).
    :param neck: channels of neck and head, before `width` (plain).
    :param towers: 3x3 convolutions of the head before the prediction (plain).
    :param shortcut: identity shortcuts around the same-size blocks (plain).
    :param levels: how many levels predict, from stride 8 on (plain); None for all. Stages coarser than these
        only inform them.
    :param shared_prediction: one prediction layer for all levels (plain).
    :param reg_max: last bin of the box distributions, in cells (plain).
    :param activation: of darknet19_yolov2: `leaky` as published, or `relu`.
    :param anchors_px: width and height of each anchor, px of the input (YOLOv2 heads); see
        `python -m kd_perception.training.anchors`.
    """

    kind: Literal['picodet_s', 'plain', 'darknet19_yolov2', 'mobilenet_v1_yolov2'] = 'picodet_s'
    width: float = 1.0
    channels: tuple[int, ...] = (32, 64, 128, 256, 512)
    blocks: tuple[int, ...] = (0, 1, 1, 1)
    neck: int = 96
    towers: int = 1
    shortcut: bool = True
    levels: int | None = None
    shared_prediction: bool = False
    reg_max: int = 7
    activation: Literal['leaky', 'relu'] = 'leaky'
    anchors_px: tuple[tuple[float, float], ...] = ()

    def __post_init__(self):
        """Check ranges."""
        if not 0 < self.width <= 8:
            raise ValueError(f'width: expected above 0, at most 8, got {self.width}')
        if len(self.channels) not in (5, 6) or len(self.blocks) != len(self.channels) - 1:
            raise ValueError('expected 5 or 6 channels, and one number of blocks less')
        if min(*self.channels, self.neck) <= 0 or min(*self.blocks, self.towers) < 0:
            raise ValueError('channels and neck must be positive, blocks and towers not negative')
        if self.levels is not None and not 1 <= self.levels <= len(self.channels) - 2:
            raise ValueError(f'levels: expected 1 to {len(self.channels) - 2}, got {self.levels}')
        if not 1 <= self.reg_max <= 64:
            raise ValueError(f'reg_max: expected 1 to 64, got {self.reg_max}')
        if bool(self.anchors_px) != (self.kind in YOLOV2_KINDS):
            raise ValueError('anchors_px belong to the YOLOv2 kinds, and only to them')
        if any(side <= 0 for anchor in self.anchors_px for side in anchor):
            raise ValueError('anchors_px must be positive')

    @property
    def size_step_px(self) -> int:
        """What the input's height and width must be multiples of."""
        return 64 if self.kind == 'plain' and len(self.channels) == 6 else 32
