# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
An attached ONNX detector as the teacher of losses: its head's places where they are the student's cells, and
values of its graph by name.

The classes compared are those that the student learns and the teacher tells apart by itself. Those of a rider
rule are not: whether a person rides shows only after suppression, so they are taught by labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np
import torch
from torch import nn

from kd_perception.detection.decode import output_shapes
from kd_perception.detection.decoders.gfl import cell_counts
from kd_perception.detection.dense_heads import dense_levels, DenseLevel
from kd_perception.detection.graph_ports import check_inputs
from kd_perception.detection.letterbox import Letterbox
from kd_perception.detection.model_loading import is_ir
from kd_perception.detection.onnx_detector import as_float32, OnnxDetector, to_tensor
from kd_perception.detection.onnx_session import create_session, ExecutionOptions, session_ports
from kd_perception.errors import TrainingError
from kd_perception.models.model_bytes import read_model
from kd_perception.models.spec import ModelSpec
from kd_perception.training.distillation.distiller import Distiller, feature_channels
from kd_perception.training.distillation.frozen_teacher import taught_maps
from kd_perception.training.networks.head_views import HeadReader, HeadView, reader_of
from kd_perception.training.networks.preprocess import MEAN, STD
from kd_perception.training.settings.distillation import DistillationSettings, Pairs
from kd_perception.training.settings.run import TrainingSettings

_LEAST_SCORE = 1e-6     # a score of 0 or 1 has no log-odds
HEAD = 'head.{}'


class OnnxTeacher:
    """
    Answers as `FrozenTeacher` does, from a model file of another family.

    :param detector: the attached model. :param labels: what the student learns.
    :param image_hw: of the training images, which the graph is given where it takes any size.
    :param settings: the terms wanted; `self.settings` holds those that the model can serve.
    :param problems: one line for each term that is left out.
    """

    def __init__(self, detector: OnnxDetector, labels: Sequence[str], image_hw: tuple[int, int],
                 settings: DistillationSettings):
        self.problems: list[str] = []
        self.labels, self.image_hw = tuple(labels), image_hw
        self.spec, self._session, self._known = _open(detector, image_hw, _pair_names(settings))
        self._input, self._constants = check_inputs(
            session_ports(self._session), self.spec.input, detector.path)
        self.classes = comparable_classes(self.spec, labels)
        self.settings = self._served(settings)
        self._maps = [name for name in taught_maps(dataclasses.replace(
            self.settings, levels=())) if name in self._known]

    @property
    def serves(self) -> bool:
        """Whether a term is left."""
        terms = (self.settings.logits, self.settings.localisation, self.settings.pyramid,
                 self.settings.regions)
        return any(term.weight > 0 for term in terms)

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return head and maps of (N, 3, H, W) float32 normalised images, by name, without gradient."""
        found = [self._one(image) for image in _pixels(images)]
        return {name: torch.from_numpy(np.stack([each[name] for each in found])) for name in found[0]}

    def distiller(self, student: nn.Module) -> Distiller:
        """Return the transfer to a student, whose head is read for the compared classes alone."""
        settings = self.settings
        blank = self(torch.zeros(1, 3, *self.image_hw))
        for name in self._maps:
            if blank[name].ndim != 4:
                raise TrainingError(f'distillation: {name!r} of the teacher has shape '
                                    f'{list(blank[name].shape)}, expected a map [1, channels, height, width]')
        channels = {name: int(blank[name].shape[1]) for name in self._maps}
        own = teacher = None
        if settings.needs_student_head:
            own = _for_classes(reader_of(student, [name for name, _ in settings.levels]),
                               [self.labels.index(label) for label in self.classes])
        if settings.needs_teacher_head:
            teacher = _read_head
        return Distiller(settings, feature_channels(student), channels, own, teacher)

    def report(self) -> str:
        """Say what is compared and what is not."""
        terms = [name for name in ('logits', 'localisation', 'regions', 'pyramid')
                 if getattr(self.settings, name).weight > 0]
        compared = 'nothing'
        if terms:
            compared = f'{", ".join(terms)} (head: {", ".join(self.classes) or "no class"})'
        left = ''.join(f'; left out: {problem}' for problem in self.problems)
        return f'losses compare: {compared}{left}'

    def _one(self, pixels_bgr: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the teacher says of one image (H, W, 3) uint8."""
        values = self._values(pixels_bgr, self._maps)
        count = len(output_shapes(self.spec))
        found = {name: value[0] for name, value in zip(self._maps, values[count:])}
        if self.settings.needs_teacher_head:
            found.update(self._head(dense_levels(values[:count], self.spec)))
        return found

    def _values(self, pixels_bgr: np.ndarray, maps: Sequence[str] = ()) -> list[np.ndarray]:
        """Return the outputs, and the maps named, of one image (H, W, 3) uint8."""
        own = self.spec.input
        letterbox = Letterbox.fit(pixels_bgr.shape[:2], own.hw, own.fit)
        tensor = to_tensor(letterbox.apply(pixels_bgr, own.pad_value), own)
        values = self._session.run([*output_shapes(self.spec), *maps],
                                   {self._input: tensor, **self._constants})
        return [as_float32(value) for value in values]

    def _head(self, levels: Mapping[int, DenseLevel]) -> dict[str, np.ndarray]:
        chosen = [levels[_stride(name)] for _, name in self.settings.levels]
        scores = np.concatenate([level.scores for level in chosen])
        ours = np.stack([scores[:, ids].max(axis=1) for ids in self.classes.values()], axis=1)
        ours = np.clip(ours, _LEAST_SCORE, 1 - _LEAST_SCORE)
        height, width = self.spec.input.hw
        boxes = np.concatenate([level.boxes for level in chosen]) / [width, height, width, height]
        found = {HEAD.format('logits'): np.log(ours / (1 - ours)), HEAD.format('boxes'): boxes}
        if all(level.distributions is not None for level in chosen):
            found[HEAD.format('distributions')] = np.concatenate([level.distributions for level in chosen])
        return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in found.items()}

    def _served(self, settings: DistillationSettings) -> DistillationSettings:
        """Return the settings without what this model cannot serve."""
        problem = self._head_problem(settings) if settings.needs_teacher_head else ''
        if problem:
            self.problems.append(problem)
            none = dataclasses.replace
            settings = none(settings, logits=none(settings.logits, weight=0.0),
                            localisation=none(settings.localisation, weight=0.0),
                            regions=none(settings.regions, disagreements=0, teacher_score=1.0),
                            pyramid=none(settings.pyramid, foreground_score=1.0))
        elif settings.localisation.weight > 0 and self.spec.decoder.type != 'gfl':
            self.problems.append('localisation, since its head has no box distributions')
            settings = dataclasses.replace(settings, localisation=dataclasses.replace(
                settings.localisation, weight=0.0))
        own = self.spec.input
        whole = Letterbox.fit(self.image_hw, own.hw, own.fit).resized_hw == own.hw
        for name in ('pyramid', 'regions'):
            term = getattr(settings, name)
            missing = [taught for _, taught in term.pairs if taught not in self._known]
            if term.weight > 0 and (missing or not whole):
                self.problems.append(
                    f'{name}, since its graph has no map {missing[0]!r}: name maps of it in '
                    f'distillation.{name}.pairs' if missing else
                    f'{name}, since its input of {own.width}x{own.height} px pads the training images')
                settings = dataclasses.replace(settings, **{name: dataclasses.replace(term, weight=0.0)})
        return settings

    def _head_problem(self, settings: DistillationSettings) -> str:
        """Say why no loss can compare the head; empty where one can."""
        if not self.classes:
            return 'its head, which tells none of the classes apart without the rider rule'
        strides = [_stride(name) for _, name in settings.levels]
        own = self.spec.input
        if own.constants:
            return 'its head, which takes other inputs than an image'
        levels = dense_levels(self._values(np.full((*self.image_hw, 3), 114, np.uint8)), self.spec)
        if not levels:
            return f'its head ({self.spec.decoder.type}), which has not one place a cell'
        wanted = cell_counts([_stride(name) for name, _ in settings.levels], self.image_hw)
        have = [len(levels[stride].scores) if stride in levels else 0 for stride in strides]
        if have != list(wanted):
            return (f'its head, whose cells at {own.width}x{own.height} px are not those of the training '
                    f'images of {self.image_hw[1]}x{self.image_hw[0]}: export it at that size, or with '
                    'a dynamic height and width')
        return ''


def onnx_teacher(detector: OnnxDetector, settings: TrainingSettings) -> OnnxTeacher | None:
    """Return what an attached detector can teach by losses; None where none are wanted, and for an IR."""
    if settings.distillation is None or is_ir(detector.path):
        return None
    return OnnxTeacher(detector, settings.labels, settings.train_hw, settings.distillation)


def comparable_classes(spec: ModelSpec, labels: Sequence[str]) -> dict[str, list[int]]:
    """Return for each label that the student learns the network's classes that become it, without riders."""
    if spec.classes is None:
        return {label: [spec.labels.index(label)] for label in labels if label in spec.labels}
    classes, rider = spec.classes, spec.classes.rider
    apart = set() if rider is None else {*rider.person, *rider.machine, *rider.other_machine}
    unclear = {classes.to[name] for name in apart if name in classes.to} | ({rider.label} if rider else set())
    found: dict[str, list[int]] = {}
    for number, name in enumerate(classes.names):
        label = classes.to.get(name)
        if label in labels and label not in unclear:
            found.setdefault(label, []).append(number)
    return {label: found[label] for label in labels if label in found}


def _open(detector: OnnxDetector, image_hw: tuple[int, int], maps: Sequence[str]
          ) -> tuple[ModelSpec, Any, frozenset[str]]:
    """Return the spec at the size in use, a session that gives the maps too, and the names of all values."""
    path = detector.path
    import onnx
    content = read_model(path, detector.sha256)[0]
    model, spec = onnx.load_model_from_string(content), detector.spec
    given = {output.name for output in model.graph.output}
    known = given | {name for node in model.graph.node for name in node.output}
    for name in maps:
        if name in known and name not in given:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    axes = dict(zip(spec.input.layout, next(
        [size.dim_param for size in each.type.tensor_type.shape.dim] for each in model.graph.input
        if each.name not in spec.input.constants)))
    sizes = {axes[axis]: size for axis, size in (('H', image_hw[0]), ('W', image_hw[1])) if axes.get(axis)}
    if len(sizes) == 2:
        spec = dataclasses.replace(spec, input=dataclasses.replace(
            spec.input, height=image_hw[0], width=image_hw[1], size_step=None))
    if axes.get('N'):
        sizes[axes['N']] = 1
    session = create_session(model.SerializeToString(), ExecutionOptions(threads=torch.get_num_threads()),
                             path, fixed_sizes=sizes)
    return spec, session, frozenset(known)


def _pair_names(settings: DistillationSettings) -> list[str]:
    pairs: list[Pairs] = [term.pairs for term in (settings.pyramid, settings.regions) if term.weight > 0]
    return list(dict.fromkeys(taught for each in pairs for _, taught in each))


def _pixels(images: torch.Tensor) -> np.ndarray:
    """Return (N, H, W, 3) uint8 BGR of (N, 3, H, W) normalised images; see `networks.preprocess`."""
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
    rgb = (images.detach().to(torch.float32).cpu() * std + mean).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(rgb.permute(0, 2, 3, 1).numpy()[..., ::-1])


def _stride(level: str) -> int:
    number = level.rpartition('_')[2]
    if not number.isdigit():
        raise TrainingError(f'distillation.levels: expected level_STRIDE, got {level!r}')
    return int(number)


def _for_classes(reader: HeadReader, ids: Sequence[int]) -> HeadReader:
    def read(named: Mapping[str, torch.Tensor]) -> HeadView:
        view = reader(named)
        return dataclasses.replace(view, logits=view.logits[..., list(ids)])
    return read


def _read_head(named: Mapping[str, torch.Tensor]) -> HeadView:
    return HeadView(*(named.get(HEAD.format(part)) for part in ('logits', 'boxes', 'distributions')))
