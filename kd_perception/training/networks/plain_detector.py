# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The default student: a plain detector made for 1-bit weights and 8-bit activations.

Dense 3x3 and 1x1 convolutions, batch norm and ReLU only: these fuse and quantise without loss of
speed, where depthwise layers, squeeze-and-excite and hard-swish do not. Identity shortcuts carry
the signal past binary layers (Liu et al., 'Bi-Real Net', ECCV 2018). Maps at strides 8, 16, 32 and, if
wanted, 64 are fused top-down and bottom-up (Liu et al., 'Path Aggregation Network', CVPR 2018), and each
level predicts class logits and distance distributions (Li et al., 'Generalized Focal Loss', NeurIPS 2020).

Weights at deep strides are nearly free: a bit each in the file, and few positions to multiply them at.
The coarsest stage may serve the finer levels alone, without predicting anything itself.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

import torch
from torch import nn
from torch.nn import functional

from kd_perception.models.spec import DecoderSpec
from kd_perception.training.networks.plain_blocks import check_size, ConvNormAct, FeatureNetwork, scaled

STRIDES = (8, 16, 32, 64)
CHANNELS = (32, 64, 128, 256, 512)  # at strides 2, 4, 8, 16, 32; a sixth number adds stride 64
BLOCKS = (0, 1, 1, 1)  # blocks after each downsampling that follows the stem
NECK = 96
REG_MAX = 7
_CLASS_PRIOR = 0.01  # as RetinaNet: Lin et al., 'Focal Loss', ICCV 2017


class PlainBlock(nn.Module):
    """A 3x3 convolution at constant width; `shortcut` adds its input before the activation."""

    def __init__(self, channels: int, shortcut: bool):
        super().__init__()
        self.body = ConvNormAct(channels, channels, act=None)
        self.act = nn.ReLU()
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's map."""
        return self.act(self.body(x) + x if self.shortcut else self.body(x))


class PlainBackbone(nn.Module):
    """Stem at stride 2, then stages that each halve the size; returns the maps from stride 8 on."""

    def __init__(self, channels: Sequence[int], blocks: Sequence[int], shortcut: bool):
        super().__init__()
        self.entry = nn.Identity()  # a place for `activations.UniformInput`
        self.stem = ConvNormAct(3, channels[0], 3, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(ConvNormAct(inputs, outputs, 3, 2),
                          *(PlainBlock(outputs, shortcut) for _ in range(count)))
            for inputs, outputs, count in zip(channels, channels[1:], blocks))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the maps at strides 8, 16, 32 (and 64)."""
        x = self.stem(self.entry(x))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps[1:])


class PlainNeck(nn.Module):
    """
    Bring the maps to one width; fuse them downwards, then upwards, by concatenation and 1x1.

    :param levels: how many of the maps are returned, finest first; those coarser only inform them.
    """

    def __init__(self, inputs: Sequence[int], width: int, levels: int):
        super().__init__()
        self.lateral = nn.ModuleList(ConvNormAct(channels, width, 1) for channels in inputs)
        self.top_down = nn.ModuleList(ConvNormAct(2 * width, width, 1) for _ in inputs[1:])
        steps = range(levels - 1)
        self.down = nn.ModuleList(ConvNormAct(width, width, 3, 2) for _ in steps)
        self.bottom_up = nn.ModuleList(ConvNormAct(2 * width, width, 1) for _ in steps)
        # Places for quantizers of what was concatenated (see `activations`).
        self.joined_down = nn.ModuleList(nn.Identity() for _ in self.top_down)
        self.joined_up = nn.ModuleList(nn.Identity() for _ in steps)

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the fused maps, finest first."""
        lateral = [layer(x) for layer, x in zip(self.lateral, maps)]
        down = [lateral[-1]]  # coarsest first
        for fuse, joined, finer in zip(self.top_down, self.joined_down, lateral[-2::-1]):
            down.append(fuse(joined(torch.cat([self._upsample(down[-1]), finer], dim=1))))
        up = [down[-1]]  # finest first
        for reduce, fuse, joined, coarser in zip(self.down, self.bottom_up, self.joined_up, down[-2::-1]):
            up.append(fuse(joined(torch.cat([reduce(up[-1]), coarser], dim=1))))
        return tuple(up)

    @staticmethod
    def _upsample(x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(x, scale_factor=2.0, mode='nearest')


class PlainHead(nn.Module):
    """
    3x3 towers and a 1x1 prediction a level.

    :param shared: one prediction for all levels (as in RetinaNet and FCOS; the towers stay apart).
    """

    def __init__(self, classes: int, width: int, reg_max: int, towers: int, levels: int, shared: bool):
        super().__init__()
        self.towers = nn.ModuleList(
            nn.Sequential(*(ConvNormAct(width, width) for _ in range(towers))) for _ in range(levels))
        self.predict = nn.ModuleList(nn.Conv2d(width, classes + 4 * (reg_max + 1), 1)
                                     for _ in range(1 if shared else levels))
        for layer in self.predict:
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
            with torch.no_grad():
                layer.bias[:classes] = -math.log(1 / _CLASS_PRIOR - 1)

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return raw logits (N, classes + 4 * (reg_max + 1), h, w) for each level."""
        return tuple(self.predict[min(i, len(self.predict) - 1)](tower(x))
                     for i, (tower, x) in enumerate(zip(self.towers, maps)))


class PlainDetector(FeatureNetwork):
    """
    The detector.

    :param classes: number of object classes.
    :param width: factor of all channel counts (each rounded to a multiple of 8).
    :param channels: at strides 2, 4, 8, 16 and 32, and at 64 if six are given, before `width`.
    :param blocks: same-size blocks after each of the downsamplings that follow the stem.
    :param neck: channels of neck and head, before `width`.
    :param towers: 3x3 convolutions of the head before the prediction.
    :param shortcut: identity shortcuts around the same-size blocks.
    :param levels: how many levels predict, from stride 8 on; None for all.
    :param shared_prediction: one prediction layer for all levels.
    """

    depth_groups = {'early': ('backbone.stem', 'backbone.stages.0', 'backbone.stages.1'),
                    'middle': ('backbone.stages.2',),
                    'deep': ('backbone.stages.3', 'backbone.stages.4', 'neck', 'head')}

    def __init__(self, classes: int, width: float = 1.0, channels: Sequence[int] = CHANNELS,
                 blocks: Sequence[int] = BLOCKS, neck: int = NECK, reg_max: int = REG_MAX, towers: int = 1,
                 shortcut: bool = True, levels: int | None = None, shared_prediction: bool = False):
        super().__init__()
        if len(channels) not in (5, 6) or len(blocks) != len(channels) - 1:
            raise ValueError('expected 5 or 6 channels and one block count less, '
                             f'got {channels} and {blocks}')
        levels = len(channels) - 2 if levels is None else levels
        if not 1 <= levels <= len(channels) - 2:
            raise ValueError(f'levels: expected 1 to {len(channels) - 2}, got {levels}')
        self.classes, self.reg_max = classes, reg_max
        self.strides, self.coarsest_stride = STRIDES[:levels], STRIDES[len(channels) - 3]
        self.size_step_px = self.coarsest_stride  # any multiple will do: nothing in it is of one size
        self.head_levels = tuple(f'level_{stride}' for stride in self.strides)
        widths = [scaled(count, width) for count in channels]
        neck = scaled(neck, width)
        self.backbone = PlainBackbone(widths, blocks, shortcut)
        self.neck = PlainNeck(widths[2:], neck, levels)
        self.head = PlainHead(classes, neck, reg_max, towers, levels, shared_prediction)
        self.full_precision = ('backbone.stem.conv',
                               *(f'head.predict.{i}' for i in range(len(self.head.predict))))

    def decoder_spec(self) -> DecoderSpec:
        """Describe the outputs for the model file."""
        return DecoderSpec('gfl', self.strides, self.reg_max)

    def forward_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Return every map that a distillation loss may ask for, by name.

        :param images: (N, 3, H, W) float32 RGB, normalised; H and W multiples of the coarsest stride.
        :return: c3, c4, c5 (backbone, strides 8, 16, 32), p3, p4, p5 (neck) and level_8, level_16,
            level_32 (head, raw logits), in that order; with stride 64 also c6, p6 and level_64. p and level
            maps end with the levels that predict.
        :raises ValueError: H or W is no such multiple.
        """
        check_size(images, self.coarsest_stride)
        backbone = self.backbone(images)
        neck = self.neck(backbone)
        named = dict(zip(('c3', 'c4', 'c5', 'c6'), backbone))
        named.update(zip(('p3', 'p4', 'p5', 'p6'), neck))
        named.update(zip(self.head_levels, self.head(neck)))
        return named
