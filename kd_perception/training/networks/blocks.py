# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Building blocks of the PicoDet family, batch norm folded.

Every convolution here carries its bias and no batch norm follows it: the published weights come
folded, and fine-tuning them this way equals the usual 'frozen batch norm' recipe. It also keeps
small batches of mixed data from disturbing running statistics.

Sources: Yu et al., 'PP-PicoDet: A Better Real-Time Object Detector on Mobile Devices',
arXiv:2111.00902 (ES block, CSP-PAN); PaddleDetection (Apache-2.0) for the exact wiring.
"""

import torch
from torch import nn
from torch.nn import functional


class ConvAct(nn.Sequential):
    """Convolution with bias, 'same' padding for odd kernels, then hard-swish unless ``act`` is False."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1,
                 act: bool = True) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups))
        if act:
            self.append(nn.Hardswish())


def depthwise(channels: int, kernel: int, stride: int = 1, act: bool = True) -> ConvAct:
    """Return a depthwise convolution: one filter for each of ``channels``."""
    return ConvAct(channels, channels, kernel, stride, groups=channels, act=act)


class DepthwiseSeparable(nn.Sequential):
    """Depthwise then pointwise convolution, each followed by hard-swish."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 5, stride: int = 1) -> None:
        super().__init__(depthwise(inputs, kernel, stride), ConvAct(inputs, outputs))


class SqueezeExcite(nn.Module):
    """Channel attention (Hu et al., CVPR 2018) with ReLU and hard-sigmoid, as in MobileNetV3."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1)
        self.excite = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = functional.adaptive_avg_pool2d(x, 1)
        return x * functional.hardsigmoid(self.excite(functional.relu(self.squeeze(pooled))))


def channel_shuffle(x: torch.Tensor, groups: int = 2) -> torch.Tensor:
    """Interleave the channels of ``groups`` equal groups (Zhang et al., ShuffleNet, CVPR 2018)."""
    # torch's own operator has no ONNX counterpart.
    count, channels, height, width = x.shape
    x = x.reshape(count, groups, channels // groups, height, width).transpose(1, 2)
    return x.reshape(count, channels, height, width)


class ESBlock(nn.Module):
    """
    ES block with stride 1: half of the channels pass, half are transformed, then both are shuffled.

    :param channels: input and output channels, even
    :param ratio: width of the inner branch as a share of ``channels`` (found by search in the paper)
    """

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        self.half = half = channels // 2
        inner = esnet_width(channels, ratio)
        self.expand = ConvAct(half, inner // 2)
        self.spatial = depthwise(inner // 2, 3, act=False)
        self.attention = SqueezeExcite(inner)
        self.project = ConvAct(inner, half)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, x = x.split(self.half, dim=1)
        x = self.expand(x)
        x = self.attention(torch.cat([x, self.spatial(x)], dim=1))
        return channel_shuffle(torch.cat([kept, self.project(x)], dim=1))


class ESDownBlock(nn.Module):
    """ES block with stride 2: two downsampling branches, fused by a depthwise separable convolution."""

    def __init__(self, inputs: int, outputs: int, ratio: float) -> None:
        super().__init__()
        half = outputs // 2
        inner = esnet_width(outputs, ratio)
        self.shortcut = nn.Sequential(depthwise(inputs, 3, 2, act=False), ConvAct(inputs, half))
        self.expand = ConvAct(inputs, inner // 2)
        self.spatial = depthwise(inner // 2, 3, 2, act=False)
        self.attention = SqueezeExcite(inner // 2)
        self.project = ConvAct(inner // 2, half)
        self.fuse = DepthwiseSeparable(outputs, outputs, kernel=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.shortcut(x)
        x = self.project(self.attention(self.spatial(self.expand(x))))
        return self.fuse(torch.cat([shortcut, x], dim=1))


def esnet_width(channels: int, ratio: float) -> int:
    """Return ``channels * ratio`` rounded to a multiple of 8, never down by more than 10 %."""
    wanted = channels * ratio
    width = max(8, int(wanted + 4) // 8 * 8)
    return width + 8 if width < 0.9 * wanted else width


class CSPLayer(nn.Module):
    """Cross-stage-partial layer of CSP-PAN with one 5x5 depthwise bottleneck and no residual."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 5) -> None:
        super().__init__()
        half = outputs // 2
        self.short = ConvAct(inputs, half)
        self.main = ConvAct(inputs, half)
        self.bottleneck = nn.Sequential(ConvAct(half, half), DepthwiseSeparable(half, half, kernel))
        self.fuse = ConvAct(2 * half, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        short = self.short(x)
        return self.fuse(torch.cat([self.bottleneck(self.main(x)), short], dim=1))
