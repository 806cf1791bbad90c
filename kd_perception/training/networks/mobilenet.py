# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
MobileNetV1 (Howard et al., arXiv:1704.04861, table 1) with the YOLOv2 head: 50.4 M weights.

Nearly all of them are the head's; the depthwise layers hold under 0.1 % and are left unbinarised by
default.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from kd_perception.training.networks.plain_blocks import ConvNormAct
from kd_perception.training.networks.yolov2_head import YoloV2

# (channels, stride) of the depthwise separable layers after the stem.
_LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
_TAPS = {4: 'c3', 10: 'c4', 12: 'c5'}  # last layer at strides 8, 16 and 32


class DepthwiseSeparableNorm(nn.Module):
    """Depthwise 3x3 and pointwise 1x1 convolution, each with batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.depthwise = ConvNormAct(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = ConvNormAct(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's map."""
        return self.pointwise(self.depthwise(x))


class MobileNetV1YoloV2(YoloV2):
    """The detector; see `YoloV2` for the parameters."""

    full_precision = ('stem.conv', 'head.predict')
    depth_groups = {'early': ('stem', *(f'layers.{i}' for i in range(5))),
                    'middle': tuple(f'layers.{i}' for i in range(5, 11)),
                    'deep': ('layers.11', 'layers.12', 'head')}

    def __init__(self, classes: int, anchors_px: Sequence[tuple[float, float]]):
        super().__init__(classes, anchors_px, fine=512, coarse=1024, act='relu')
        self.stem = ConvNormAct(3, 32, 3, 2)
        inputs, layers = 32, []
        for channels, stride in _LAYERS:
            layers.append(DepthwiseSeparableNorm(inputs, channels, stride))
            inputs = channels
        self.layers = nn.ModuleList(layers)

    def backbone_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return c3 (256 channels), c4 (512) and c5 (1024)."""
        x, named = self.stem(images), {}
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in _TAPS:
                named[_TAPS[index]] = x
        return named
