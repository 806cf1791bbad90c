# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Boxes and distance distributions in torch: decoding, IoU and the losses on them."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import torch
from torch.nn import functional


@dataclasses.dataclass(frozen=True, eq=False)
class FlatPrediction:
    """
    All levels of a head side by side (P points in all).

    :param logits: (N, P, C) class logits.
    :param distributions: (N, P, 4, bins) logits of the left, top, right and bottom distances.
    :param boxes: (N, P, 4) xyxy px.
    :param points: (P, 2) x, y px; `strides`: (P,) px.
    """

    logits: torch.Tensor
    distributions: torch.Tensor
    boxes: torch.Tensor
    points: torch.Tensor
    strides: torch.Tensor


def flatten_levels(levels: Sequence[torch.Tensor], strides: Sequence[int], classes: int,
                   reg_max: int) -> FlatPrediction:
    """
    Join raw head maps (N, classes + 4 * (reg_max + 1), h, w), one a stride, and decode the boxes.

    Points lie at `(x + 0.5) * stride`; a distance is the mean of its distribution times the stride
    (Li et al., 'Generalized Focal Loss', NeurIPS 2020).
    """
    logits, distributions, boxes, points, sizes = [], [], [], [], []
    bins = torch.arange(reg_max + 1, dtype=torch.float32, device=levels[0].device)
    for level, stride in zip(levels, strides):
        height, width = level.shape[-2:]
        flat = level.flatten(2).transpose(1, 2)
        distribution = flat[..., classes:].reshape(*flat.shape[:2], 4, reg_max + 1)
        distance = (distribution.softmax(-1) * bins).sum(-1) * stride
        ys, xs = torch.meshgrid(torch.arange(height, device=level.device),
                                torch.arange(width, device=level.device), indexing='ij')
        point = (torch.stack([xs, ys], -1).reshape(-1, 2).float() + 0.5) * stride
        logits.append(flat[..., :classes])
        distributions.append(distribution)
        boxes.append(torch.cat([point - distance[..., :2], point + distance[..., 2:]], -1))
        points.append(point)
        sizes.append(torch.full((len(point),), float(stride), device=level.device))
    return FlatPrediction(torch.cat(logits, 1), torch.cat(distributions, 1), torch.cat(boxes, 1),
                          torch.cat(points), torch.cat(sizes))


def pairwise_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU (N, M) of boxes (N, 4) and (M, 4), xyxy."""
    overlap = ((torch.minimum(a[:, None, 2:], b[None, :, 2:])
                - torch.maximum(a[:, None, :2], b[None, :, :2])).clamp_min(0)).prod(-1)
    area_a, area_b = (a[:, 2:] - a[:, :2]).clamp_min(0).prod(-1), (b[:, 2:] - b[:, :2]).clamp_min(0).prod(-1)
    return overlap / (area_a[:, None] + area_b[None] - overlap).clamp_min(1e-9)


def giou_loss(predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Generalised IoU loss (N,) in [0, 2] of paired boxes (Rezatofighi et al., CVPR 2019)."""
    overlap = (torch.minimum(predicted[:, 2:], wanted[:, 2:])
               - torch.maximum(predicted[:, :2], wanted[:, :2])).clamp_min(0).prod(-1)
    union = ((predicted[:, 2:] - predicted[:, :2]).clamp_min(0).prod(-1)
             + (wanted[:, 2:] - wanted[:, :2]).prod(-1) - overlap).clamp_min(1e-9)
    hull = (torch.maximum(predicted[:, 2:], wanted[:, 2:])
            - torch.minimum(predicted[:, :2], wanted[:, :2])).prod(-1).clamp_min(1e-9)
    return 1 - overlap / union + (hull - union) / hull


def distribution_focal_loss(logits: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """
    Cross entropy with the two bins next to each distance (N,) of 4 sides, averaged over the sides.

    :param logits: (N, 4, bins); `distances`: (N, 4) in bins, within 0..bins-1.
    """
    top = logits.shape[-1] - 1
    distances = distances.clamp(0, top - 1e-3)
    low = distances.floor().long()
    high_share = distances - low
    log = functional.log_softmax(logits, -1)
    picked = (log.gather(-1, low[..., None])[..., 0] * (1 - high_share)
              + log.gather(-1, (low + 1)[..., None])[..., 0] * high_share)
    return -picked.mean(-1)
