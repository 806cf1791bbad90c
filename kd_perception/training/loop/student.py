# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a student's run adds to plain training: binarisation in stages, and a teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kd_perception.errors import TrainingError
from kd_perception.training.binary.activations import activation_quantizers, ActivationSchedule
from kd_perception.training.binary.binarization import (
    activate_all,
    BinarizationSchedule,
    latent_parameters,
    reestimate_batch_norm,
)
from kd_perception.training.distillation.distiller import distiller_for
from kd_perception.training.distillation.frozen_teacher import FrozenTeacher, taught_maps
from kd_perception.training.distillation.onnx_teacher import OnnxTeacher
from kd_perception.training.losses.detection_loss import DetectionLoss, ImageTargets
from kd_perception.training.losses.yolov2_loss import YoloV2Loss
from kd_perception.training.networks.yolov2_head import YoloV2
from kd_perception.training.settings.run import TrainingSettings


class StudentMethods:
    """
    Binarisation schedule and knowledge transfer of one run; idle where the settings ask for neither.

    :param network: the network in training.
    :param teacher: frozen, in evaluation mode, or a detector of another family; needed where the settings
        distil.
    :raises TrainingError: there is no teacher, or a term does not fit the two networks.
    """

    def __init__(self, settings: TrainingSettings, network: nn.Module,
                 teacher: nn.Module | OnnxTeacher | None):
        self.settings, self.teacher = settings, None
        self.schedule = self.activations = self.distiller = None
        if settings.binarization is not None:
            self.schedule = BinarizationSchedule(network, settings.binarization, settings.steps)
        if settings.activations is not None:
            self.activations = ActivationSchedule(network, settings.activations, settings.steps)
        if settings.distillation is not None:
            if teacher is None:
                raise TrainingError('the configuration distils: give the checkpoint of its teacher with '
                                    '--teacher')
            if isinstance(teacher, OnnxTeacher):
                self.teacher, self.distiller = teacher, teacher.distiller(network)
                return
            self.teacher = FrozenTeacher(teacher, taught_maps(settings.distillation))
            self.distiller = distiller_for(settings.distillation, network, teacher)

    @property
    def distils(self) -> bool:
        """Whether a teacher takes part; the network must then be run by `forward_features`."""
        return self.distiller is not None

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained besides the network: the adapters."""
        return [] if self.distiller is None else list(self.distiller.parameters())

    def before_step(self, step: int, batches: Iterable[torch.Tensor] = ()) -> None:
        """
        Prepare step `step`, counted from 0.

        :param batches: normalised images of the run, to calibrate integer activations on.
        """
        if self.schedule is not None:
            self.schedule.before_step(step)
        if self.activations is not None:
            self.activations.before_step(step, batches)

    def terms(self, images: torch.Tensor, named: Mapping[str, torch.Tensor], targets: Sequence[ImageTargets],
              step: int) -> dict[str, torch.Tensor]:
        """
        Return the transfer terms by name, weighted.

        :param images: (N, 3, H, W) normalised; `named`: the student's maps of them.
        """
        if self.distiller is None:
            return {}
        return self.distiller(named, self.teacher(images), [target.boxes for target in targets],
                              tuple(images.shape[-2:]), step / self.settings.steps)

    def after_step(self, step: int) -> None:
        """Follow the optimiser's step: projections and freezing of binary layers."""
        if self.schedule is not None:
            self.schedule.after_step(step)

    def finish(self, network: nn.Module, average: nn.Module, batches: Iterable[torch.Tensor]) -> None:
        """
        End the run: everything binary, batch norm fitted to the averaged binary weights.

        :param batches: normalised images, at least as many as `batch_norm_batches`.
        """
        if self.schedule is None:
            return
        for each in (network, average):
            activate_all(each)
        wanted = self.settings.binarization.batch_norm_batches
        if wanted:
            reestimate_batch_norm(average, (batch for _, batch in zip(range(wanted), batches)))

    def state_dict(self) -> dict[str, Any]:
        """Return the adapters' weights."""
        return {} if self.distiller is None else self.distiller.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if self.distiller is not None:
            self.distiller.load_state_dict(state)


def head_levels(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the head's raw maps, finest stride first."""
    return tuple(getattr(network, 'head_levels', None) or (f'level_{stride}' for stride in network.strides))


def make_optimiser(network: nn.Module, settings: TrainingSettings, adapters: Sequence[nn.Parameter] = ()
                   ) -> torch.optim.AdamW:
    """
    Build AdamW: the backbone at its own rate, latent binary weights and scales of activations without decay.

    A sign has no size that decay could keep small: it would only draw latent weights to where they flip.
    """
    chosen = settings.optimiser
    latent = {id(p) for p in latent_parameters(network)}
    latent |= {id(quantizer.log_scale) for quantizer in activation_quantizers(network)}
    groups = []
    for backbone in (False, True):
        rate = chosen.lr * (chosen.backbone_lr_share if backbone else 1.0)
        own = [p for name, p in network.named_parameters() if name.startswith('backbone.') == backbone]
        parts = [[p for p in own if id(p) not in latent], [p for p in own if id(p) in latent]]
        if not backbone:
            parts[0] += list(adapters)
        for part, decay in zip(parts, (chosen.weight_decay, 0.0)):
            if part:
                groups.append({'params': part, 'lr': rate, 'base_lr': rate, 'weight_decay': decay})
    return torch.optim.AdamW(groups, weight_decay=chosen.weight_decay, fused=True)


def make_loss(settings: TrainingSettings, network: nn.Module, distil: bool) -> DetectionLoss | YoloV2Loss:
    """
    Build the loss that fits the network's head.

    :param distil: the untouched pretrained network teaches its own classes.
    """
    labels = list(settings.labels)
    if isinstance(network, YoloV2):
        return YoloV2Loss(len(labels), network.anchors_px, network.strides[0])
    distilled = [labels.index(name) for name in ('Car', 'Pedestrian') if name in labels] if distil else []
    pair = None
    if {'Cyclist', 'Pedestrian'} <= set(labels):
        pair = labels.index('Cyclist'), labels.index('Pedestrian')
    return DetectionLoss(settings.loss, len(labels), network.strides, network.reg_max, distilled, pair)
