# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Blocks of the networks that are trained with batch norm: convolution, norm, activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

SIZE_STEP_PX = 32  # the deepest map has stride 32, and upsampling is by exact factors of two


def activation(name: str) -> nn.Module:
    """Return `relu`, or `leaky` with Darknet's slope 0.1."""
    if name == 'relu':
        return nn.ReLU(inplace=True)
    if name == 'leaky':
        return nn.LeakyReLU(0.1, inplace=True)
    raise ValueError(f'activation: expected relu or leaky, got {name!r}')


class ConvNormAct(nn.Module):
    """
    Convolution without bias and with 'same' padding for odd kernels, batch norm, activation.

    :param act: name of the activation; None for none.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1,
                 act: str | None = 'relu'):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.act = nn.Identity() if act is None else activation(act)
        nn.init.kaiming_normal_(self.conv.weight, mode='fan_out', nonlinearity='relu')

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the activated map."""
        return self.act(self.norm(self.conv(x)))


class FeatureNetwork(nn.Module):
    """
    A detector that names its feature maps, so that losses and tools can ask for any of them.

    Subclasses give `forward_features` (name -> map, in the order of computation) and these facts:

    - `head_levels`: names of the maps that the model file outputs, finest stride first;
    - `full_precision`: names of the convolutions that are not to be binarised (first and last);
    - `depth_groups`: module name prefixes of the early, the middle and the deep part.
    """

    head_levels: Sequence[str] = ()
    full_precision: Sequence[str] = ()
    depth_groups: Mapping[str, Sequence[str]] = {}

    def forward_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return every named map of (N, 3, H, W) float32 RGB, normalised."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the head's raw maps, finest stride first."""
        named = self.forward_features(images)
        return tuple(named[name] for name in self.head_levels)


def check_size(images: torch.Tensor, step_px: int = SIZE_STEP_PX) -> None:
    """Raise ValueError unless height and width are multiples of `step_px`."""
    if images.shape[-2] % step_px or images.shape[-1] % step_px:
        raise ValueError(f'input height and width must be multiples of {step_px}, '
                         f'got {tuple(images.shape[-2:])}')


def scaled(channels: int, width: float) -> int:
    """Return `channels * width`, rounded to a multiple of 8 and at least 8 (whole bytes of bits)."""
    return max(8, round(channels * width / 8) * 8)
