# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
DarkNet-19 with the YOLOv2 head (Redmon and Farhadi, CVPR 2017, table 6).

With five anchors and three classes it has 67.0 M weights: the detector whose binary form is
published at 8.8 MB.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from kd_perception.training.networks.plain_blocks import ConvNormAct
from kd_perception.training.networks.yolov2_head import YoloV2

# (kernel, channels) of each stage; a 2x2 max pooling stands between stages.
_STAGES = (
    ((3, 32),),
    ((3, 64),),
    ((3, 128), (1, 64), (3, 128)),
    ((3, 256), (1, 128), (3, 256)),
    ((3, 512), (1, 256), (3, 512), (1, 256), (3, 512)),
    ((3, 1024), (1, 512), (3, 1024), (1, 512), (3, 1024)),
)


class DarkNet19YoloV2(YoloV2):
    """
    The detector; see `YoloV2` for the parameters.

    :param act: `leaky` as published, or `relu`, which int8 kernels fuse.
    """

    full_precision = ('stages.0.0.conv', 'head.predict')
    depth_groups = {'early': ('stages.0', 'stages.1', 'stages.2', 'stages.3'), 'middle': ('stages.4',),
                    'deep': ('stages.5', 'head')}

    def __init__(self, classes: int, anchors_px: Sequence[tuple[float, float]], act: str = 'leaky'):
        super().__init__(classes, anchors_px, fine=512, coarse=1024, act=act)
        inputs, stages = 3, []
        for layers in _STAGES:
            blocks = []
            for kernel, channels in layers:
                blocks.append(ConvNormAct(inputs, channels, kernel, act=act))
                inputs = channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.pool = nn.MaxPool2d(2, 2)

    def backbone_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return c3 (256 channels), c4 (512) and c5 (1024)."""
        x, named = images, {}
        for index, stage in enumerate(self.stages):
            x = stage(self.pool(x) if index else x)
            if index >= 3:
                named[f'c{index}'] = x
        return named
