# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The network's view of a camera image: colours and normalisation, in torch."""

from __future__ import annotations

import torch
from torch import nn

# ImageNet statistics in 0..255, RGB order, as PaddleDetection normalises.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class FromCamera(nn.Module):
    """
    A network that takes uint8 NHWC BGR, as the detector node has it.

    :param network: takes (N, 3, H, W) float32 RGB, normalised.
    :param mean, std: of each colour, 0..255, RGB.
    """

    def __init__(self, network: nn.Module, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD):
        super().__init__()
        self.network = network
        self.register_buffer('mean', torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('scale', 1 / torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the network's head maps for (N, H, W, 3) uint8 BGR."""
        return self.network(self.normalise(images))

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Return (N, 3, H, W) float32 RGB, normalised."""
        rgb = images.to(torch.float32).permute(0, 3, 1, 2)[:, [2, 1, 0]]
        return (rgb - self.mean) * self.scale
