# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Hierarchical knowledge transfer: outputs, regions and feature maps of a teacher for a student.

Works with any two networks that name their maps (`forward_features`) and whose heads have a reader
(`head_views`). The teacher's maps are detached: no term can reach its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from kd_perception.errors import TrainingError
from kd_perception.training.distillation.losses import (
    channel_loss,
    l2_loss,
    localisation_loss,
    logit_loss,
    pearson_loss,
    position_weights,
)
from kd_perception.training.distillation.regions import (
    confident_boxes,
    fitting_level,
    foreground_mask,
    pool_regions,
    relative_boxes,
    select_regions,
)
from kd_perception.training.networks.head_views import HeadReader, HeadView, reader_of
from kd_perception.training.settings.distillation import DistillationSettings

_FOREGROUND_BOXES = 100


@torch.no_grad()
def feature_channels(network: nn.Module, size_px: int = 64) -> dict[str, int]:
    """Return the channels of each named map, by running the network once on a small blank input."""
    parameter = next(network.parameters())
    training = network.training
    blank = torch.zeros(1, 3, size_px, size_px, device=parameter.device, dtype=parameter.dtype)
    try:
        return {name: int(x.shape[1]) for name, x in network.eval().forward_features(blank).items()}
    finally:
        network.train(training)


class Distiller(nn.Module):
    """
    All transfer terms of a configuration.

    Its parameters are the adapters (1x1 convolutions where a pair's widths differ): train them together
    with the student.

    :param student_channels, teacher_channels: see `feature_channels`.
    :param student_reader, teacher_reader: of the heads, with their places in the same order; each may be
        None where no term asks for it.
    :raises TrainingError: a pair names a map that is not there, or a term needs a reader.
    """

    def __init__(self, settings: DistillationSettings, student_channels: Mapping[str, int],
                 teacher_channels: Mapping[str, int], student_reader: HeadReader | None = None,
                 teacher_reader: HeadReader | None = None):
        super().__init__()
        self.settings = settings
        self.student_reader, self.teacher_reader = student_reader, teacher_reader
        for who, needed, reader in (('student', settings.needs_student_head, student_reader),
                                    ('teacher', settings.needs_teacher_head, teacher_reader)):
            if needed and reader is None:
                raise TrainingError(f"distillation: the settings need a reader of the {who}'s head")
        adapters: dict[str, nn.Module] = {}
        for term in (settings.pyramid, settings.regions):
            for pair in term.pairs if term.weight > 0 else ():
                adapters.setdefault(_key(pair), _adapter(pair, student_channels, teacher_channels))
        self.adapters = nn.ModuleDict(adapters)

    def forward(self, student: Mapping[str, torch.Tensor], teacher: Mapping[str, torch.Tensor],
                labelled_px: Sequence[torch.Tensor], image_hw: tuple[int, int], progress: float
                ) -> dict[str, torch.Tensor]:
        """
        Return the weighted terms by name: those of positive weight, 0 while their schedule is off.

        :param student, teacher: named maps of the same images, both covering the whole input.
        :param labelled_px: for each image the labelled boxes (K, 4) xyxy, px of the student's input.
        :param image_hw: height and width of the student's input, px.
        :param progress: steps done as a share of all steps, 0..1.
        """
        settings = self.settings
        step = _Step(student, {name: x.detach() for name, x in teacher.items()},
                     [relative_boxes(boxes, image_hw) for boxes in labelled_px], progress,
                     self.student_reader, self.teacher_reader)
        terms: dict[str, torch.Tensor] = {}
        for name, term, loss in (('logits', settings.logits, self._logits),
                                 ('localisation', settings.localisation, self._localisation),
                                 ('pyramid', settings.pyramid, self._pyramid),
                                 ('regions', settings.regions, self._regions)):
            if term.weight > 0:
                factor = term.weight * term.schedule.factor(progress)
                terms[name] = factor * loss(step) if factor > 0 else step.zero()
        return terms

    def _logits(self, step: _Step) -> torch.Tensor:
        return logit_loss(*step.views(), self.settings.logits)

    def _localisation(self, step: _Step) -> torch.Tensor:
        student, teacher = step.views()
        if student.distributions is None or teacher.distributions is None:
            raise TrainingError('distillation.localisation: a head has no box distributions; '
                                'set its weight to 0')
        if student.distributions.shape != teacher.distributions.shape:
            raise TrainingError('distillation.localisation: the heads have different reg_max')
        return localisation_loss(student, teacher, self.settings.localisation)

    def _pyramid(self, step: _Step) -> torch.Tensor:
        chosen = self.settings.pyramid
        boxes = None
        if chosen.foreground is not None:
            boxes = list(step.labelled)
            if chosen.foreground_score < 1:
                boxes = [torch.cat([own, confident_boxes(step.teacher_view(), image, chosen.foreground_score,
                                                         _FOREGROUND_BOXES)])
                         for image, own in enumerate(boxes)]
        losses = [step.zero()]
        for index, pair in enumerate(chosen.pairs):
            if step.progress < chosen.schedule.start + index * chosen.stagger:
                continue
            own = self.adapters[_key(pair)](step.student[pair[0]])
            taught = _resized(step.teacher[pair[1]], own.shape[-2:])
            weights = None
            if boxes is not None:
                weights = position_weights(foreground_mask(boxes, *own.shape[-2:]), chosen.foreground)
            if chosen.method == 'pearson':
                losses.append(pearson_loss(own, taught, weights))
            elif chosen.method == 'channel':
                losses.append(channel_loss(own, taught, chosen.temperature))
            else:
                losses.append(l2_loss(own, taught, weights))
        return torch.stack(losses).sum() / len(chosen.pairs)

    def _regions(self, step: _Step) -> torch.Tensor:
        chosen = self.settings.regions
        student_view = teacher_view = None
        if chosen.disagreements:
            student_view, teacher_view = step.views()
        elif chosen.teacher_score < 1:
            teacher_view = step.teacher_view()
        boxes = select_regions(chosen, step.labelled, student_view, teacher_view)
        sizes = [tuple(step.student[name].shape[-2:]) for name, _ in chosen.pairs]
        levels = [fitting_level(own, sizes, chosen.cells) for own in boxes]
        losses, count = [step.zero()], 0
        for index, pair in enumerate(chosen.pairs):
            here = [own[level == index] for own, level in zip(boxes, levels)]
            regions = sum(map(len, here))
            if regions:
                own = pool_regions(self.adapters[_key(pair)](step.student[pair[0]]), here, chosen.cells)
                taught = pool_regions(step.teacher[pair[1]], here, chosen.cells)
                losses.append(pearson_loss(own, taught) * regions)
                count += regions
        return torch.stack(losses).sum() / max(1, count)


class _Step:
    """What the terms of one step share; each head is read at most once, and only if a term asks."""

    def __init__(self, student: Mapping[str, torch.Tensor], teacher: Mapping[str, torch.Tensor],
                 labelled: Sequence[torch.Tensor], progress: float, student_reader: HeadReader | None,
                 teacher_reader: HeadReader | None):
        self.student, self.teacher, self.labelled, self.progress = student, teacher, labelled, progress
        self._readers = (student_reader, teacher_reader)
        self._student_view: HeadView | None = None
        self._teacher_view: HeadView | None = None

    def zero(self) -> torch.Tensor:
        """Return a zero on the right device."""
        return next(iter(self.student.values())).new_zeros(())

    def teacher_view(self) -> HeadView:
        """Return what the teacher's head says."""
        if self._teacher_view is None:
            self._teacher_view = self._readers[1](self.teacher)
        return self._teacher_view

    def views(self) -> tuple[HeadView, HeadView]:
        """Return the student's and the teacher's view, which must speak of the same places and classes."""
        if self._student_view is None:
            self._student_view = self._readers[0](self.student)
        student, teacher = self._student_view, self.teacher_view()
        if student.logits.shape != teacher.logits.shape:
            raise TrainingError(
                f'distillation: the heads do not match: student {tuple(student.logits.shape)}, teacher '
                f'{tuple(teacher.logits.shape)} (images, places, classes); choose levels of the same grid, '
                'or set the weights of logits and localisation and regions.disagreements to 0')
        return student, teacher


def distiller_for(settings: DistillationSettings, student: nn.Module, teacher: nn.Module) -> Distiller:
    """
    Build the transfer between two of this package's networks.

    :raises TrainingError: a head that a term needs is not known, or a named map is missing.
    """
    readers: list[HeadReader | None] = [None, None]
    if settings.needs_student_head:
        readers[0] = reader_of(student, [own for own, _ in settings.levels])
    if settings.needs_teacher_head:
        readers[1] = reader_of(teacher, [taught for _, taught in settings.levels])
    return Distiller(settings, feature_channels(student), feature_channels(teacher), *readers)


def _key(pair: tuple[str, str]) -> str:
    return f'{pair[0]}>{pair[1]}'.replace('.', '_')


def _adapter(pair: tuple[str, str], student: Mapping[str, int], teacher: Mapping[str, int]) -> nn.Module:
    for who, name, known in (('student', pair[0], student), ('teacher', pair[1], teacher)):
        if name not in known:
            raise TrainingError(f'distillation: the {who} has no map {name!r}; it has {", ".join(known)}')
    if student[pair[0]] == teacher[pair[1]]:
        return nn.Identity()
    return nn.Conv2d(student[pair[0]], teacher[pair[1]], 1)


def _resized(features: torch.Tensor, size_hw: Sequence[int]) -> torch.Tensor:
    """Bring the teacher's map to the student's size: by averaging down, or bilinearly up."""
    if tuple(features.shape[-2:]) == tuple(size_hw):
        return features
    if features.shape[-2] >= size_hw[0] and features.shape[-1] >= size_hw[1]:
        return functional.adaptive_avg_pool2d(features, tuple(size_hw))
    return functional.interpolate(features, tuple(size_hw), mode='bilinear', align_corners=False)
