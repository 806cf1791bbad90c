# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Regions of images that are worth teaching: where they are, masks of them, features pooled in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from kd_perception.boxes.nms import nms
from kd_perception.training.networks.head_views import HeadView
from kd_perception.training.settings.distillation import RegionSettings

_NMS_IOU = 0.5
_MIN_SIDE = 1e-3  # of the image: smaller regions hold no feature of their own


def relative_boxes(boxes_px: torch.Tensor, image_hw: tuple[int, int]) -> torch.Tensor:
    """Return boxes (N, 4) xyxy px as shares of the image's width and height."""
    height, width = image_hw
    return boxes_px / boxes_px.new_tensor([width, height, width, height])


@torch.no_grad()
def confident_boxes(view: HeadView, image: int, score: float, limit: int) -> torch.Tensor:
    """Return the boxes (K, 4) of one image whose best score reaches `score`, after class-blind NMS."""
    best = view.logits[image].sigmoid().amax(-1)
    return _distinct(view.boxes[image], torch.where(best >= score, best, torch.zeros_like(best)), limit)


@torch.no_grad()
def disagreements(student: HeadView, teacher: HeadView, image: int, least: float, limit: int) -> torch.Tensor:
    """
    Return boxes (K, 4) of one image at which the best score differs most between two heads.

    Where the teacher sees more, its box is taken; where the student does (a false alarm), the student's.
    The idea of selecting by discrepancy: Xu et al., 'IDa-Det', ECCV 2022.
    """
    taught, own = (view.logits[image].sigmoid() for view in (teacher, student))
    difference = (taught - own).abs().amax(-1)
    more = taught.amax(-1) >= own.amax(-1)
    boxes = torch.where(more[:, None], teacher.boxes[image], student.boxes[image])
    return _distinct(boxes, torch.where(difference >= least, difference, torch.zeros_like(difference)), limit)


def _distinct(boxes: torch.Tensor, scores: torch.Tensor, limit: int) -> torch.Tensor:
    """Return the best boxes with a score above 0, clipped to the image, after NMS."""
    boxes = boxes.clamp(0, 1)
    large = ((boxes[:, 2:] - boxes[:, :2]) >= _MIN_SIDE).all(-1) & torch.isfinite(scores) & (scores > 0)
    boxes, scores = boxes[large], scores[large]
    if not len(boxes) or limit <= 0:
        return boxes[:0]
    kept = nms(boxes.double().cpu().numpy(), scores.double().cpu().numpy(),
               torch.zeros(len(boxes), dtype=torch.long).numpy(), _NMS_IOU, limit)
    return boxes[torch.from_numpy(kept).to(boxes.device)]


def select_regions(settings: RegionSettings, labelled: Sequence[torch.Tensor], student: HeadView | None,
                   teacher: HeadView | None) -> list[torch.Tensor]:
    """
    Choose the regions of each image: labels, then the teacher's boxes, then disagreements.

    :param labelled: for each image the labelled boxes (K, 4), as shares of the image.
    :param student, teacher: heads; each may be None where the settings do not need it.
    :return: for each image (K, 4) float32, at most `max_regions`, clipped to the image.
    """
    chosen = []
    for image, boxes in enumerate(labelled):
        parts = []
        if settings.ground_truth:
            inside = boxes.clamp(0, 1)
            parts.append(inside[((inside[:, 2:] - inside[:, :2]) >= _MIN_SIDE).all(-1)])
        if settings.teacher_score < 1 and teacher is not None:
            parts.append(confident_boxes(teacher, image, settings.teacher_score, settings.max_regions))
        if settings.disagreements and teacher is not None and student is not None:
            parts.append(disagreements(student, teacher, image, settings.least_difference,
                                       settings.disagreements))
        chosen.append(torch.cat(parts)[:settings.max_regions] if parts else boxes[:0])
    return chosen


def foreground_mask(boxes: Sequence[torch.Tensor], height: int, width: int) -> torch.Tensor:
    """
    Mark the cells whose centre lies in a box; a box without such a cell marks the one at its centre.

    :param boxes: for each image (K, 4), as shares of the image.
    :return: (N, height, width) bool.
    """
    masks = []
    for own in boxes:
        x = (torch.arange(width, device=own.device) + 0.5) / width
        y = (torch.arange(height, device=own.device) + 0.5) / height
        columns = (x >= own[:, 0:1]) & (x < own[:, 2:3])  # (K, width)
        rows = (y >= own[:, 1:2]) & (y < own[:, 3:4])
        mask = (rows[:, :, None] & columns[:, None, :]).any(0)
        missed = ~(columns.any(1) & rows.any(1))
        centres = ((own[missed, :2] + own[missed, 2:]) / 2).clamp(0, 1 - 1e-6)
        mask[(centres[:, 1] * height).long(), (centres[:, 0] * width).long()] = True
        masks.append(mask)
    return torch.stack(masks)


def pool_regions(features: torch.Tensor, boxes: Sequence[torch.Tensor], cells: int) -> torch.Tensor:
    """
    Sample a map bilinearly at the centres of a grid over each region (RoIAlign with one sample a bin).

    :param features: (N, C, H, W); `boxes`: for each image (K, 4), as shares of the image.
    :return: (sum of K, C, cells, cells), image by image.
    """
    offsets = (torch.arange(cells, device=features.device, dtype=features.dtype) + 0.5) / cells
    pooled = []
    for own, single in zip(boxes, features):
        count = len(own)
        x = own[:, 0:1] + offsets * (own[:, 2:3] - own[:, 0:1])  # (K, cells)
        y = own[:, 1:2] + offsets * (own[:, 3:4] - own[:, 1:2])
        grid = torch.stack([x[:, None, :].expand(-1, cells, -1), y[:, :, None].expand(-1, -1, cells)], dim=-1)
        # Without align_corners, -1..1 spans the map's outer edges, as 0..1 spans the image's.
        grid = (2 * grid - 1).to(features.dtype).reshape(1, count * cells, cells, 2)
        sampled = functional.grid_sample(single[None], grid, padding_mode='border', align_corners=False)
        pooled.append(sampled.reshape(len(single), count, cells, cells).transpose(0, 1))
    return torch.cat(pooled)


def fitting_level(boxes: torch.Tensor, sizes_hw: Sequence[tuple[int, int]], cells: int) -> torch.Tensor:
    """
    Choose the map to pool each region from.

    :param boxes: (K, 4), as shares of the image.
    :param sizes_hw: sizes of the maps, finest first.
    :return: (K,) index of the coarsest map on which the region's mean side is at least `cells` cells,
        0 where none is.
    """
    area = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(-1)
    level = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
    for index, (height, width) in enumerate(sizes_hw):
        level[(area * height * width).sqrt() >= cells] = index
    return level
