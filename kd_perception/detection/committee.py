# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Several detectors as one: each at its own input, with calibrated scores, fused by `fusion`.

A committee file names the members::

    labels: [Car, Pedestrian, Cyclist]
    members:
      - model: teacher                       # of the manifest, or a path beside this file
      - model: omz/person-vehicle-bike-detection-2003.xml      # OpenVINO IR: needs its class numbers
        classes: {0: Car, 1: Pedestrian, 2: Cyclist}
        longest_px: 1600
        calibration: {Car: [0.7, -0.4], Pedestrian: [0.9, -1.1]}

Detectors' scores mean different things. `calibration` makes each the probability of being right:
p = sigmoid(a * logit(score) + b) (Platt, 1999), fitted by `kd_perception committee --fit`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.boxes.fusion import FusedDetections, FUSION_IOU, weighted_boxes_fusion
from kd_perception.boxes.score_calibration import calibrated_scores
from kd_perception.config import load_config
from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.detection.openvino_ir import IrDetector
from kd_perception.errors import ConfigError

LOWEST_SCORE = 0.05


@dataclasses.dataclass(frozen=True)
class MemberSettings:
    """
    One detector of a committee.

    :param model: a name of the manifest, or a path: relative to the committee file. A suffix `.xml`
        means IR.
    :param classes: class number -> label, for IR. A package model's classes are known by their
        names.
    :param longest_px: longer side of what an IR network sees.
    :param weight: of its scores.
    :param skip: labels that it knows and shall say nothing of.
    :param calibration: label -> (a, b); see the module's text.
    """

    model: str
    classes: dict[int, str] = dataclasses.field(default_factory=dict)
    longest_px: int = 1280
    weight: float = 1.0
    skip: tuple[str, ...] = ()
    calibration: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """Check ranges."""
        if not 64 <= self.longest_px <= 4096 or not 0 < self.weight <= 100:
            raise ValueError('expected longest_px in 64..4096 and a weight above 0, at most 100')
        if self.is_ir != bool(self.classes):
            raise ValueError(f'{self.model}: classes are given with an IR file (.xml), and only with one')

    @property
    def name(self) -> str:
        """What reports call it: the file's name without folder and suffix."""
        return Path(self.model).stem

    @property
    def is_ir(self) -> bool:
        """Whether the member is an OpenVINO IR file."""
        return self.model.lower().endswith('.xml')


@dataclasses.dataclass(frozen=True)
class CommitteeSettings:
    """A committee file."""

    labels: tuple[str, ...]
    members: tuple[MemberSettings, ...]
    iou: float = FUSION_IOU

    def __post_init__(self):
        """Check ranges and names."""
        if not self.members or not self.labels or not 0 < self.iou < 1:
            raise ValueError('expected labels, members and an iou between 0 and 1')
        for member in self.members:
            unknown = {*member.classes.values(), *member.skip, *member.calibration} - set(self.labels)
            if unknown:
                raise ValueError(f'{member.model}: {sorted(unknown)} are not among labels')
        names = [member.name for member in self.members]
        if len(set(names)) != len(names):
            raise ValueError(f'a name is given twice in {names}')


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """
    A detector that speaks the committee's labels.

    :param find: (H, W, 3) uint8 BGR -> detections from `LOWEST_SCORE` on, scores as the model gives
        them.
    :param knows: (C,) bool.
    """

    sha256: str
    settings: MemberSettings
    find: Callable[[np.ndarray], Detections]
    knows: np.ndarray


class Committee:
    """
    Detectors whose boxes are fused.

    :param members: see `load_committee`.
    """

    def __init__(self, settings: CommitteeSettings, members: Sequence[Member]):
        self.settings, self.members = settings, list(members)
        self.labels = settings.labels
        self._weights = np.array([np.where(m.knows, m.settings.weight, 0.0) for m in self.members])

    def find_raw(self, image_bgr: np.ndarray) -> list[Detections]:
        """Return what each member finds, with its own scores."""
        return [member.find(image_bgr) for member in self.members]

    def calibrated(self, found: Sequence[Detections]) -> list[Detections]:
        """Return what `find_raw` returned, with calibrated scores."""
        return [calibrated(each, member.settings, self.labels) for each, member in zip(found, self.members)]

    def fuse(self, found: Sequence[Detections]) -> FusedDetections:
        """Fuse what `calibrated` returned."""
        return weighted_boxes_fusion(found, self._weights, self.settings.iou)

    def detect(self, image_bgr: np.ndarray) -> FusedDetections:
        """Return the committee's view of (H, W, 3) uint8 BGR."""
        return self.fuse(self.calibrated(self.find_raw(image_bgr)))

    def facts(self) -> list[dict[str, Any]]:
        """Return name, file, sha256 and classes of each member, for what is written with its help."""
        return [{'name': m.settings.name, 'file': m.settings.model, 'sha256': m.sha256,
                 'labels': [label for label, knows in zip(self.labels, m.knows) if knows]}
                for m in self.members]


def load_committee(path: Path, options: ExecutionOptions = ExecutionOptions()) -> Committee:
    """
    Read a committee file and load its members.

    :raises ConfigError: the file is no committee's; ModelError: a member cannot be loaded.
    """
    settings = load_config(CommitteeSettings, path)
    return Committee(settings, [_member(each, settings.labels, path, options) for each in settings.members])


def calibrated(detections: Detections, settings: MemberSettings, labels: Sequence[str]) -> Detections:
    """Return detections whose scores are probabilities, where the settings hold a calibration."""
    scores = calibrated_scores(detections.scores, detections.class_ids, settings.calibration, labels)
    return Detections(detections.boxes_xyxy, scores, detections.class_ids)


def _member(settings: MemberSettings, labels: Sequence[str], path: Path, options: ExecutionOptions) -> Member:
    beside = path.parent / settings.model
    if settings.is_ir:
        network = IrDetector(beside, labels, settings.classes, settings.longest_px, options.threads)
        known, digest = set(settings.classes.values()), network.sha256
        find = _finder_of_ir(network)
    else:
        detector = OnnxDetector.named(str(beside) if beside.is_file() else settings.model, options)
        known, digest = set(detector.spec.labels) & set(labels), detector.sha256
        if not known:
            raise ConfigError(f'{path}: {settings.model} knows {list(detector.spec.labels)}, none of '
                              f'{list(labels)}')
        find = _finder_of_package_model(detector, labels)
    knows = np.array([label in known and label not in settings.skip for label in labels])
    return Member(digest, settings, find, knows)


def _finder_of_ir(network: IrDetector) -> Callable[[np.ndarray], Detections]:
    return lambda image: network.detect(image, LOWEST_SCORE)


def _finder_of_package_model(detector: OnnxDetector, labels: Sequence[str]
                             ) -> Callable[[np.ndarray], Detections]:
    ids = np.array([labels.index(name) if name in labels else -1 for name in detector.spec.labels])

    def find(image: np.ndarray) -> Detections:
        found = detector.detect(image, LOWEST_SCORE).detections
        found = found.select(ids[found.class_ids] >= 0)
        return Detections(found.boxes_xyxy, found.scores, ids[found.class_ids])
    return find
