# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The losses of knowledge transfer, each a function of a student's and a teacher's tensors."""

from __future__ import annotations

import torch
from torch.nn import functional

from kd_perception.training.losses.detection_loss import soft_focal_loss
from kd_perception.training.networks.head_views import HeadView
from kd_perception.training.settings.distillation import LocalisationSettings, LogitSettings

_EPSILON = 1e-6


def standardised(features: torch.Tensor) -> torch.Tensor:
    """Give each channel of (N, C, H, W) mean 0 and deviation 1 over images and positions."""
    mean = features.mean(dim=(0, 2, 3), keepdim=True)
    variance = features.var(dim=(0, 2, 3), unbiased=False, keepdim=True)
    return (features - mean) / (variance + _EPSILON).sqrt()


def pearson_loss(student: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor | None = None
                 ) -> torch.Tensor:
    """
    PKD: half the squared distance of standardised maps, 1 - Pearson correlation of each channel.

    Cao et al., 'PKD: General Distillation Framework for Object Detectors via Pearson Correlation
    Coefficient', NeurIPS 2022: scale and offset of the features do not matter.

    :param student, teacher: (N, C, H, W) of the same shape.
    :param weights: (N, H, W) share of each position in the loss, summing to 1; None for equal shares.
    """
    squares = (standardised(student) - standardised(teacher)).square().mean(dim=1) / 2
    return squares.mean() if weights is None else (squares * weights).sum()


def channel_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """
    CWD: divergence of where each channel is active.

    Shu et al., 'Channel-wise Knowledge Distillation for Dense Prediction', ICCV 2021, equation 4: KL of the
    softmax over positions, times temperature^2, averaged over images and channels.
    """
    wanted = (teacher.flatten(2) / temperature).log_softmax(-1)
    found = (student.flatten(2) / temperature).log_softmax(-1)
    divergence = (wanted.exp() * (wanted - found)).sum(-1)
    return divergence.mean() * temperature ** 2


def l2_loss(student: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor | None = None
            ) -> torch.Tensor:
    """Mean squared difference (FitNets, Romero et al., ICLR 2015); `weights` as in `pearson_loss`."""
    squares = (student - teacher).square().mean(dim=1)
    return squares.mean() if weights is None else (squares * weights).sum()


def logit_loss(student: HeadView, teacher: HeadView, settings: LogitSettings) -> torch.Tensor:
    """
    Difference of the class scores, summed, over the teacher's summed best scores (at least 1).

    `qfl`: quality focal loss with the teacher's score as target (Li et al., NeurIPS 2020); `kl`: Bernoulli KL
    of scores at a temperature, times temperature^2 (Hinton et al., 2015).
    """
    mass = teacher.logits.sigmoid().amax(-1).sum().clamp_min(1.0)
    if settings.method == 'qfl':
        return soft_focal_loss(student.logits, teacher.logits.sigmoid()).sum() / mass
    t, s = teacher.logits / settings.temperature, student.logits / settings.temperature
    divergence = (t.sigmoid() * (functional.logsigmoid(t) - functional.logsigmoid(s))
                  + (-t).sigmoid() * (functional.logsigmoid(-t) - functional.logsigmoid(-s)))
    return divergence.sum() * settings.temperature ** 2 / mass


def localisation_loss(student: HeadView, teacher: HeadView, settings: LocalisationSettings) -> torch.Tensor:
    """
    LD: KL of the distance distributions, where the teacher sees an object.

    Zheng et al., 'Localization Distillation for Dense Object Detection', CVPR 2022; each place weighs the
    teacher's best score, which takes the part of the paper's main and valuable regions.
    """
    best = teacher.logits.sigmoid().amax(-1)
    places = best >= settings.least_score   # few: the others would cost time and count nothing
    weights = best[places]
    wanted = (teacher.distributions[places] / settings.temperature).log_softmax(-1)
    found = (student.distributions[places] / settings.temperature).log_softmax(-1)
    divergence = (wanted.exp() * (wanted - found)).sum(-1).mean(-1)  # over bins, then the four sides
    return (divergence * weights).sum() * settings.temperature ** 2 / weights.sum().clamp_min(1.0)


def position_weights(mask: torch.Tensor, foreground: float) -> torch.Tensor:
    """
    Share out a loss of 1 over positions: `foreground` to those of the mask, the rest to the others.

    :param mask: (N, H, W) bool.
    :return: (N, H, W) float32; its sum is 1 unless one side is empty, whose share is then lost.
    """
    inside = mask.float()
    outside = 1 - inside
    return (foreground * inside / inside.sum().clamp_min(1)
            + (1 - foreground) * outside / outside.sum().clamp_min(1))
