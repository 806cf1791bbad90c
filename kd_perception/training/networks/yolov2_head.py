# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The head of YOLOv2 (Redmon and Farhadi, 'YOLO9000: Better, Faster, Stronger', CVPR 2017).

Two 3x3 convolutions on the stride-32 map, the stride-16 map folded into it (passthrough), one more
3x3 convolution on both, and a 1x1 prediction for each anchor. As in the paper's text the whole
stride-16 map passes (2048 folded channels); Darknet's later configurations squeeze it to 64
channels first.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

import torch
from torch import nn
from torch.nn import functional

from kd_perception.models.spec import DecoderSpec
from kd_perception.training.networks.plain_blocks import check_size, ConvNormAct, FeatureNetwork

STRIDE = 32
HEAD_CHANNELS = 1024
_OBJECT_PRIOR = 0.01  # share of cells that hold an object at the start (Lin et al., ICCV 2017)


class YoloV2Head(nn.Module):
    """
    Predict boxes from the maps at strides 16 and 32.

    :param fine, coarse: channels of the maps at strides 16 and 32.
    :param anchors: number of anchors.
    """

    def __init__(self, fine: int, coarse: int, classes: int, anchors: int, act: str,
                 channels: int = HEAD_CHANNELS):
        super().__init__()
        self.conv1 = ConvNormAct(coarse, channels, act=act)
        self.conv2 = ConvNormAct(channels, channels, act=act)
        self.fuse = ConvNormAct(channels + 4 * fine, channels, act=act)
        self.predict = nn.Conv2d(channels, anchors * (5 + classes), 1)
        nn.init.normal_(self.predict.weight, std=0.01)
        nn.init.zeros_(self.predict.bias)
        with torch.no_grad():
            self.predict.bias.view(anchors, -1)[:, 4] = -math.log(1 / _OBJECT_PRIOR - 1)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (the last feature map, the raw prediction)."""
        deep = self.conv2(self.conv1(coarse))
        fused = self.fuse(torch.cat([functional.pixel_unshuffle(fine, 2), deep], dim=1))
        return fused, self.predict(fused)


class YoloV2(FeatureNetwork):
    """
    Base of the networks with this head; subclasses give `backbone_features`.

    :param classes: number of object classes.
    :param anchors_px: (width, height) of each anchor, px of the input.
    """

    head_levels = (f'level_{STRIDE}',)
    strides = (STRIDE,)

    def __init__(self, classes: int, anchors_px: Sequence[tuple[float, float]], fine: int, coarse: int,
                 act: str):
        super().__init__()
        if not anchors_px or any(side <= 0 for anchor in anchors_px for side in anchor):
            raise ValueError(f'anchors_px: expected pairs of positive px, got {anchors_px}')
        self.classes = classes
        self.anchors_px = tuple((float(w), float(h)) for w, h in anchors_px)
        self.head = YoloV2Head(fine, coarse, classes, len(self.anchors_px), act)

    def decoder_spec(self) -> DecoderSpec:
        """Describe the output for the model file."""
        return DecoderSpec('yolov2', self.strides, anchors_px=self.anchors_px)

    def backbone_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return c3, c4 and c5: the backbone's maps at strides 8, 16 and 32."""
        raise NotImplementedError

    def forward_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Return every map that a distillation loss may ask for, by name.

        :param images: (N, 3, H, W) float32 RGB, normalised; H and W multiples of 32.
        :return: c3, c4, c5, p5 (the head's last map) and level_32 (N, A * (5 + C), H/32, W/32): for
            each anchor t_x, t_y, t_w, t_h, objectness logit, class logits.
        :raises ValueError: H or W is no multiple of 32.
        """
        check_size(images)
        named = self.backbone_features(images)
        named['p5'], named[f'level_{STRIDE}'] = self.head(named['c4'], named['c5'])
        return named
