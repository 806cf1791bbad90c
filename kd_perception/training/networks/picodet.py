# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
PicoDet-S as a plain torch module: ESNet backbone, CSP-PAN neck, generalised focal loss head.

Source: Yu et al., arXiv:2111.00902, and PaddleDetection's picodet_s (Apache-2.0). Works at any
input height and width that are multiples of 32; the map at stride 64 rounds up.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from kd_perception.training.networks.blocks import ConvAct, CSPLayer, DepthwiseSeparable, ESBlock, ESDownBlock

STRIDES = (8, 16, 32, 64)
SIZE_STEP_PX = 32  # the neck upsamples from stride 32 by exact factors of two
REG_MAX = 7  # bins 0..7 of the distance distributions, in units of the stride
# Inner widths found by the paper's search, one for each block of the three stages.
_STAGES = ((96, (0.875, 0.5, 0.5)),
           (192, (0.5, 0.625, 0.5, 0.625, 0.5, 0.5, 0.5)),
           (384, (0.5, 0.5, 0.5)))
_STEM = 24
_NECK = 96


class ESNet(nn.Module):
    """Backbone; returns maps at strides 8, 16 and 32 with 96, 192 and 384 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvAct(3, _STEM, 3, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        inputs, stages = _STEM, []
        for channels, ratios in _STAGES:
            blocks = [ESDownBlock(inputs, channels, ratios[0])]
            blocks += [ESBlock(channels, ratio) for ratio in ratios[1:]]
            stages.append(nn.Sequential(*blocks))
            inputs = channels
        self.stages = nn.ModuleList(stages)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.pool(self.stem(x))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)


class CSPPAN(nn.Module):
    """Neck: top-down and bottom-up fusion at one width, plus an extra map at stride 64."""

    def __init__(self, inputs: Sequence[int] = tuple(s[0] for s in _STAGES), width: int = _NECK) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(ConvAct(channels, width) for channels in inputs)
        self.top_down = nn.ModuleList(CSPLayer(2 * width, width) for _ in range(2))
        self.down = nn.ModuleList(DepthwiseSeparable(width, width, stride=2) for _ in range(2))
        self.bottom_up = nn.ModuleList(CSPLayer(2 * width, width) for _ in range(2))
        self.extra_from_backbone = DepthwiseSeparable(width, width, stride=2)
        self.extra_from_neck = DepthwiseSeparable(width, width, stride=2)

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        c3, c4, c5 = (reduce(x) for reduce, x in zip(self.reduce, maps))
        t4 = self.top_down[0](torch.cat([self._upsample(c5), c4], dim=1))
        p3 = self.top_down[1](torch.cat([self._upsample(t4), c3], dim=1))
        p4 = self.bottom_up[0](torch.cat([self.down[0](p3), t4], dim=1))
        p5 = self.bottom_up[1](torch.cat([self.down[1](p4), c5], dim=1))
        p6 = self.extra_from_backbone(c5) + self.extra_from_neck(p5)
        return p3, p4, p5, p6

    @staticmethod
    def _upsample(x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(x, scale_factor=2.0, mode='nearest')


class GFLHead(nn.Module):
    """
    Head shared by classes and boxes within a level, not between levels.

    Each level gives raw logits (N, classes + 4 * (REG_MAX + 1), h, w): class channels first, then
    the distance distributions of left, top, right and bottom (Li et al., NeurIPS 2020).
    """

    def __init__(self, classes: int, width: int = _NECK, levels: int = len(STRIDES)) -> None:
        super().__init__()
        self.towers = nn.ModuleList(
            nn.Sequential(DepthwiseSeparable(width, width), DepthwiseSeparable(width, width))
            for _ in range(levels))
        self.predict = nn.ModuleList(
            nn.Conv2d(width, classes + 4 * (REG_MAX + 1), 1) for _ in range(levels))
        for predict in self.predict:  # background dominates: start at a score of 0.01 (focal loss paper)
            nn.init.normal_(predict.weight, std=0.01)
            nn.init.zeros_(predict.bias)
            nn.init.constant_(predict.bias[:classes], -4.6)

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return tuple(predict(tower(x)) for tower, predict, x in zip(self.towers, self.predict, maps))


class PicoDet(nn.Module):
    """
    PicoDet-S.

    :param classes: number of object classes
    """

    strides = STRIDES
    reg_max = REG_MAX
    size_step_px = SIZE_STEP_PX

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.backbone = ESNet()
        self.neck = CSPPAN()
        self.head = GFLHead(classes)

    def forward_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Return every map that a distillation loss may ask for, by name.

        :param images: (N, 3, H, W) float32 RGB, normalised; H and W multiples of 32
        :return: c3, c4, c5 (backbone, strides 8, 16, 32), p3 to p6 (neck, strides 8 to 64) and
            level_8 to level_64 (head, raw logits), in that order
        :raises ValueError: if H or W is no multiple of 32
        """
        if images.shape[-2] % SIZE_STEP_PX or images.shape[-1] % SIZE_STEP_PX:
            raise ValueError(f'input height and width must be multiples of {SIZE_STEP_PX}, '
                             f'got {tuple(images.shape[-2:])}')
        backbone = self.backbone(images)
        neck = self.neck(backbone)
        named = dict(zip(('c3', 'c4', 'c5'), backbone))
        named.update(zip(('p3', 'p4', 'p5', 'p6'), neck))
        named.update(zip((f'level_{stride}' for stride in STRIDES), self.head(neck)))
        return named

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the head's logits, finest stride first; see :meth:`forward_features`."""
        named = self.forward_features(images)
        return tuple(named[f'level_{stride}'] for stride in STRIDES)
