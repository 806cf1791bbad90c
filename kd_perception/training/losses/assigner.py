# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Task-aligned label assignment.

Source: Feng et al., 'TOOD: Task-aligned One-stage Object Detection', ICCV 2021: for every object the
points inside it with the best `score^a * iou^b` are positive, and their class target is that
alignment, scaled so that the best point of the object gets its IoU.
"""

from __future__ import annotations

import dataclasses

import torch

from kd_perception.training.losses.box_losses import pairwise_iou


@dataclasses.dataclass(frozen=True, eq=False)
class Assignment:
    """
    Which point learns which object.

    :param object_index: (P,) int64, -1 for background.
    :param target: (P,) float32 class target in [0, 1], 0 for background.
    """

    object_index: torch.Tensor
    target: torch.Tensor


@torch.no_grad()
def assign(scores: torch.Tensor, boxes: torch.Tensor, points: torch.Tensor, strides: torch.Tensor,
           object_boxes: torch.Tensor, object_classes: torch.Tensor, reg_max: int, top_k: int,
           score_power: float, iou_power: float) -> Assignment:
    """
    Assign the points of one image.

    :param scores: (P, C) class probabilities; `boxes`: (P, 4) predicted xyxy px.
    :param points: (P, 2) x, y px; `strides`: (P,) px.
    :param object_boxes: (N, 4) xyxy px; `object_classes`: (N,).
    """
    count = len(points)
    index = torch.full((count,), -1, dtype=torch.long, device=points.device)
    target = torch.zeros(count, device=points.device)
    if len(object_boxes) == 0:
        return Assignment(index, target)
    distances = torch.cat([points[:, None] - object_boxes[None, :, :2],
                           object_boxes[None, :, 2:] - points[:, None]], dim=-1)  # (P, N, 4)
    inside = distances.amin(-1) > 0
    # A level whose bins cannot reach the box's edges would learn a wrong box.
    reachable = distances.amax(-1) < reg_max * strides[:, None]
    candidates = inside & reachable
    iou = pairwise_iou(boxes, object_boxes).clamp(0, 1)
    alignment = scores[:, object_classes].pow(score_power) * iou.pow(iou_power)
    alignment = torch.where(candidates, alignment, torch.zeros_like(alignment))
    # Points tie at 0 while a prediction is far off: nearness to the centre breaks the tie.
    centres = (object_boxes[:, :2] + object_boxes[:, 2:]) / 2
    nearness = 1 / (1 + torch.cdist(points, centres))
    # Boxes that hold no point (narrower than a cell) take the nearest reachable one.
    lonely = ~candidates.any(0)
    candidates[:, lonely] = reachable[:, lonely]
    rank = torch.where(candidates, alignment + 1e-9 * nearness, torch.full_like(alignment, -1.0))
    best, chosen = rank.topk(min(top_k, count), dim=0)
    keep = best >= 0
    keep[1:, lonely] = False
    positive = torch.zeros_like(candidates)
    positive[chosen[keep], torch.arange(len(object_boxes), device=points.device)
             .expand_as(chosen)[keep]] = True
    # A point claimed by several objects goes to the one it overlaps most.
    claimed = torch.where(positive, iou + 1e-6 * nearness, torch.full_like(iou, -1.0))
    best_iou, owner = claimed.max(1)
    taken = best_iou >= 0
    index[taken] = owner[taken]
    owned = torch.zeros_like(positive)
    owned[taken, owner[taken]] = True
    alignment = alignment * owned
    scale = (iou * owned).amax(0) / alignment.amax(0).clamp_min(1e-12)
    target = (alignment * scale[None]).amax(1).clamp(0, 1)
    # Early on all IoUs may be 0; a small floor keeps positives from turning into negatives.
    target[taken] = target[taken].clamp_min(0.05)
    return Assignment(index, target)
