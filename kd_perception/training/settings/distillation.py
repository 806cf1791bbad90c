# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a training configuration may say about knowledge transfer. A term of weight 0 is off."""

from __future__ import annotations

import dataclasses
from typing import Literal

Pairs = tuple[tuple[str, str], ...]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class TermSchedule:
    """
    When a term acts, as shares of all training steps.

    Its factor is 0 before `start`, rises linearly to 1 over `ramp`, and is 0 again from `end` on. 1 for
    `end` keeps it to the last step.
    """

    start: float = 0.0
    ramp: float = 0.0
    end: float = 1.0

    def __post_init__(self):
        """Check ranges."""
        _require(0 <= self.start <= self.end <= 1 and 0 <= self.ramp <= 1,
                 'expected 0 <= start <= end <= 1 and 0 <= ramp <= 1')

    def factor(self, progress: float) -> float:
        """Return the factor in 0..1 after `progress` of all steps, 0..1."""
        if progress < self.start or (progress >= self.end and self.end < 1):
            return 0.0
        return 1.0 if self.ramp == 0 else min(1.0, (progress - self.start) / self.ramp)


@dataclasses.dataclass(frozen=True)
class PyramidSettings:
    """
    Transfer of whole feature maps, normalised.

    :param weight: factor of the term.
    :param pairs: (student's map, teacher's map) by name, shallow to deep.
    :param method: `pearson` (PKD), `channel` (CWD), or `l2` (plain hint, for comparison).
    :param temperature: of CWD's softmax over positions.
    :param foreground: share of the loss that positions inside objects (labels and confident teacher boxes)
        weigh, however few they are; the rest weighs 1 - foreground. None weighs all positions alike.
        Not for `channel`, whose softmax picks its own positions.
    :param foreground_score: from which the teacher's boxes count as objects; 1 for labels alone.
    :param stagger: each pair starts this share of all steps after the one before it.
    """

    weight: float = 0.0
    pairs: Pairs = (('p3', 'p3'), ('p4', 'p4'), ('p5', 'p5'))
    method: Literal['pearson', 'channel', 'l2'] = 'pearson'
    temperature: float = 1.0
    foreground: float | None = None
    foreground_score: float = 0.4
    stagger: float = 0.0
    schedule: TermSchedule = TermSchedule()

    def __post_init__(self):
        """Check ranges."""
        _require(self.weight >= 0 and self.temperature > 0, 'expected weight >= 0 and temperature > 0')
        _require(0 <= self.stagger <= 1, 'stagger: expected 0 to 1')
        _require(self.foreground is None or 0 <= self.foreground <= 1, 'foreground: expected 0 to 1')
        _require(0 < self.foreground_score <= 1, 'foreground_score: expected above 0, at most 1')
        _require(bool(self.pairs) or self.weight == 0, 'pairs: expected at least one')
        _require(self.foreground is None or self.method != 'channel',
                 'foreground does not go with method channel')


@dataclasses.dataclass(frozen=True)
class RegionSettings:
    """
    Transfer of features pooled in regions of the image.

    :param weight: factor of the term.
    :param pairs: (student's map, teacher's map), finest first; a region is pooled from the coarsest map on
        which it is at least `cells` cells wide.
    :param cells: a region is sampled on a grid of this many cells a side.
    :param ground_truth: use labelled boxes.
    :param teacher_score: use the teacher's boxes from this score on; 1 for none.
    :param disagreements: use this many boxes an image at which student and teacher differ most.
    :param least_difference: of the best class score, for a disagreement to count.
    :param max_regions: at most this many an image (labels first, then teacher, then disagreements).
    """

    weight: float = 0.0
    pairs: Pairs = (('p3', 'p3'), ('p4', 'p4'), ('p5', 'p5'))
    cells: int = 5
    ground_truth: bool = True
    teacher_score: float = 0.4
    disagreements: int = 8
    least_difference: float = 0.2
    max_regions: int = 64
    schedule: TermSchedule = TermSchedule()

    def __post_init__(self):
        """Check ranges."""
        _require(self.weight >= 0 and self.cells >= 1, 'expected weight >= 0 and cells >= 1')
        _require(bool(self.pairs) or self.weight == 0, 'pairs: expected at least one')
        _require(0 < self.teacher_score <= 1 and 0 <= self.least_difference <= 1,
                 'expected 0 < teacher_score <= 1 and 0 <= least_difference <= 1')
        _require(self.disagreements >= 0 and self.max_regions >= 1,
                 'expected disagreements >= 0 and max_regions >= 1')


@dataclasses.dataclass(frozen=True)
class LogitSettings:
    """
    Transfer of class scores, cell by cell.

    :param weight: factor of the term.
    :param method: `qfl` (quality focal loss towards the teacher's score) or `kl` (between the class
        distributions, at `temperature`).
    """

    weight: float = 0.0
    method: Literal['qfl', 'kl'] = 'qfl'
    temperature: float = 2.0
    schedule: TermSchedule = TermSchedule()

    def __post_init__(self):
        """Check ranges."""
        _require(self.weight >= 0 and self.temperature > 0, 'expected weight >= 0 and temperature > 0')


@dataclasses.dataclass(frozen=True)
class LocalisationSettings:
    """
    Transfer of box distributions (LD), where the teacher sees an object.

    :param weight: factor of the term.
    :param least_score: cells whose best teacher score is below this do not count; the others count by
        their score.
    """

    weight: float = 0.0
    temperature: float = 10.0
    least_score: float = 0.05
    schedule: TermSchedule = TermSchedule()

    def __post_init__(self):
        """Check ranges."""
        _require(self.weight >= 0 and self.temperature > 0, 'expected weight >= 0 and temperature > 0')
        _require(0 <= self.least_score <= 1, 'least_score: expected 0 to 1')


@dataclasses.dataclass(frozen=True)
class DistillationSettings:
    """
    The whole transfer: outputs first, then the intermediate layers, shallow to deep.

    :param levels: (student's level, teacher's level) of the heads; the grids of a pair must have the same
        size. A teacher at twice the student's input size pairs its level_16 with the student's level_8.
    """

    levels: Pairs = (('level_8', 'level_8'), ('level_16', 'level_16'), ('level_32', 'level_32'))
    logits: LogitSettings = LogitSettings()
    localisation: LocalisationSettings = LocalisationSettings()
    pyramid: PyramidSettings = PyramidSettings()
    regions: RegionSettings = RegionSettings()

    @property
    def needs_student_head(self) -> bool:
        """Whether a term compares the heads' outputs place by place."""
        return (self.logits.weight > 0 or self.localisation.weight > 0
                or (self.regions.weight > 0 and self.regions.disagreements > 0))

    @property
    def needs_teacher_head(self) -> bool:
        """Whether a term asks what the teacher's head says."""
        return (self.needs_student_head or (self.regions.weight > 0 and self.regions.teacher_score < 1)
                or (self.pyramid.weight > 0 and self.pyramid.foreground is not None
                    and self.pyramid.foreground_score < 1))
