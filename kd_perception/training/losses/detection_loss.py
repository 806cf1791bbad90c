# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The detector's training loss: varifocal, GIoU, distribution focal and self-distillation terms."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import torch
from torch.nn import functional

from kd_perception.training.losses.assigner import assign
from kd_perception.training.losses.box_losses import (
    distribution_focal_loss,
    FlatPrediction,
    flatten_levels,
    giou_loss,
)
from kd_perception.training.settings.run import LossSettings


@dataclasses.dataclass(frozen=True, eq=False)
class ImageTargets:
    """
    Targets of one training image as tensors, in px of the network's input.

    :param boxes: (N, 4) float32 xyxy; `classes`: (N,) int64.
    :param ignore_boxes: (M, 4) float32; `ignore_classes`: (M, C) bool.
    :param labelled: (C,) bool: classes whose absence is background.
    :param weight: factor of the supervised terms; `distil`: factor of the distillation term.
    """

    boxes: torch.Tensor
    classes: torch.Tensor
    ignore_boxes: torch.Tensor
    ignore_classes: torch.Tensor
    labelled: torch.Tensor
    weight: float
    distil: float


def varifocal_loss(logits: torch.Tensor, targets: torch.Tensor, alpha: float = 0.75,
                   gamma: float = 2.0) -> torch.Tensor:
    """
    Varifocal loss, elementwise (Zhang et al., 'VarifocalNet', CVPR 2021).

    Positives (target > 0) weigh as much as their target; negatives `alpha * p^gamma`.
    """
    weight = torch.where(targets > 0, targets, alpha * logits.detach().sigmoid().pow(gamma))
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction='none') * weight


def soft_focal_loss(logits: torch.Tensor, targets: torch.Tensor, beta: float = 2.0) -> torch.Tensor:
    """Quality focal loss, elementwise: cross entropy times |p - target|^beta (Li et al., NeurIPS 2020)."""
    distance = (logits.detach().sigmoid() - targets).abs().pow(beta)
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction='none') * distance


class DetectionLoss:
    """
    Loss of a batch.

    :param classes: number of classes; `strides`, `reg_max`: of the head.
    :param distilled: classes whose scores the pretrained network teaches.
    :param rider_pair: (rider, person) channels: a pretrained network calls a cyclist's rider a person;
        its view of 'person' is not taught inside our cyclists. None turns this off.
    """

    def __init__(self, settings: LossSettings, classes: int, strides: Sequence[int], reg_max: int,
                 distilled: Sequence[int] = (), rider_pair: tuple[int, int] | None = None):
        self.settings, self.classes, self.strides, self.reg_max = settings, classes, strides, reg_max
        self.distilled = list(distilled)
        self.rider_pair = rider_pair

    def __call__(self, levels: Sequence[torch.Tensor], targets: Sequence[ImageTargets],
                 pretrained: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """
        Return the terms by name, already weighted, and their sum as 'total'.

        :param levels: raw head maps of the network in training.
        :param targets: one for each image.
        :param pretrained: (N, P, C) class probabilities of the pretrained network on the same input.
        """
        prediction = flatten_levels(levels, self.strides, self.classes, self.reg_max)
        zero = prediction.logits.new_zeros(())
        sums = dict.fromkeys(('classes', 'box', 'distribution', 'distil'), zero)
        positives, taught = zero, zero
        for i, target in enumerate(targets):
            terms, mass, teacher_mass = self._image(prediction, i, target,
                                                    None if pretrained is None else pretrained[i])
            for name, value in terms.items():
                sums[name] = sums[name] + value
            positives, taught = positives + mass, taught + teacher_mass
        # Normalised by the batch's summed class targets, as PicoDet and TOOD do.
        norms = {'distil': taught.clamp_min(1.0)}
        factors = {'classes': self.settings.classes, 'box': self.settings.box,
                   'distribution': self.settings.distribution, 'distil': self.settings.distil}
        losses = {name: factors[name] * value / norms.get(name, positives.clamp_min(1.0))
                  for name, value in sums.items()}
        losses['total'] = torch.stack(list(losses.values())).sum()
        return losses

    def _image(self, prediction: FlatPrediction, i: int, target: ImageTargets,
               pretrained: torch.Tensor | None) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        logits, boxes = prediction.logits[i], prediction.boxes[i]
        found = assign(logits.detach().sigmoid(), boxes.detach(), prediction.points, prediction.strides,
                       target.boxes, target.classes, self.reg_max, self.settings.top_k,
                       self.settings.score_power, self.settings.iou_power)
        positive = found.object_index >= 0
        index = found.object_index[positive]
        wanted = torch.zeros_like(logits)
        wanted[positive, target.classes[index]] = found.target[positive]
        weight = self._class_weight(prediction.points, target)
        weight[positive] = torch.maximum(weight[positive], wanted[positive].gt(0).float())
        terms = {'classes': (varifocal_loss(logits, wanted) * weight).sum() * target.weight}
        share = found.target[positive]
        if len(index):
            truth = target.boxes[index]
            points, strides = prediction.points[positive], prediction.strides[positive]
            terms['box'] = (giou_loss(boxes[positive], truth) * share).sum() * target.weight
            distances = torch.cat([points - truth[:, :2], truth[:, 2:] - points], -1) / strides[:, None]
            dfl = distribution_focal_loss(prediction.distributions[i][positive], distances)
            terms['distribution'] = (dfl * share).sum() * target.weight
        teacher_mass = logits.new_zeros(())
        if pretrained is not None and target.distil > 0:
            mask = self._distil_mask(prediction.points, target, positive)
            view, taught = pretrained[:, self.distilled], logits[:, self.distilled]
            terms['distil'] = (soft_focal_loss(taught, view) * mask).sum() * target.distil
            teacher_mass = (view * mask).sum()
        return terms, share.sum() * target.weight, teacher_mass

    def _class_weight(self, points: torch.Tensor, target: ImageTargets) -> torch.Tensor:
        """Return (P, C): 0 where a class is unlabelled or the point lies in a region ignored for it."""
        weight = target.labelled.float().expand(len(points), self.classes).clone()
        if len(target.ignore_boxes):
            within = _inside(points, target.ignore_boxes)  # (P, M)
            weight[(within[:, :, None] & target.ignore_classes[None]).any(1)] = 0
        return weight

    def _distil_mask(self, points: torch.Tensor, target: ImageTargets,
                     positive: torch.Tensor) -> torch.Tensor:
        """Return (P, D): labels outrank the pretrained network at positives and on our riders."""
        mask = (~positive).float()[:, None].repeat(1, len(self.distilled))
        if self.rider_pair is not None and self.rider_pair[1] in self.distilled:
            riders = target.boxes[target.classes == self.rider_pair[0]]
            if len(riders):
                column = self.distilled.index(self.rider_pair[1])
                mask[_inside(points, riders).any(1), column] = 0
        return mask


def _inside(points: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Return (P, M): whether each point lies in each box."""
    return ((points[:, None] > boxes[None, :, :2]) & (points[:, None] < boxes[None, :, 2:])).all(-1)
