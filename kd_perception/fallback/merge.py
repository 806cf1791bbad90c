# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""One answer out of two: how the teacher's detections and the student's become the verified ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Literal

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.boxes.overlap import box_iou
from kd_perception.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class MergeSettings:
    """
    How the two are merged; a user may tune it live.

    :param policy: `replace`: the teacher's boxes alone. `union`: those, and the student's confident boxes
        which the teacher neither confirms nor contradicts.
    :param student_score: boxes of the student below it are not published (they are there for the gate).
    :param keep_score: `union` keeps a student's box from this score on.
    :param same_iou: a box of the student is confirmed by one of the teacher, of its class, from this IoU on.
    :param contradict_iou: it is contradicted by one of another class from this IoU on: the same object under
        another name, and there the teacher is believed.
    :param max_detections: at most this many are published, and taken of either, the highest scores first.
    """

    policy: Literal['replace', 'union'] = 'replace'
    student_score: float = 0.0
    keep_score: float = 0.6
    same_iou: float = 0.5
    contradict_iou: float = 0.7
    max_detections: int = 300

    def __post_init__(self):
        """Check ranges."""
        if self.policy not in ('replace', 'union'):
            raise ValueError(f'policy is {self.policy!r}, expected replace or union')
        if not (0 <= self.student_score <= 1 and 0 <= self.keep_score <= 1):
            raise ValueError('scores must be in [0, 1]')
        if not (0 < self.same_iou <= 1 and 0 < self.contradict_iou <= 1):
            raise ValueError('IoUs must be in (0, 1]')
        if not 1 <= self.max_detections <= 1000:
            raise ValueError('max_detections must be in 1..1000')


@dataclasses.dataclass(frozen=True)
class LabelMap:
    """
    Class names of the verified detections, and how each model's class ids become theirs.

    :param labels: the student's, then those that only the teacher knows.
    :param teacher_ids: id in `labels` by the teacher's class id.
    """

    labels: tuple[str, ...]
    teacher_ids: tuple[int, ...]

    @classmethod
    def by_name(cls, student: Sequence[str], teacher: Sequence[str],
                aliases: Mapping[str, str] | None = None) -> LabelMap:
        """
        Map by name; order and number may differ.

        :param student, teacher: class names by id.
        :param aliases: the student's name by the teacher's, for classes that the two call differently.
        :raises ConfigError: not one class in common (the wrong model), a name given twice, or an alias of a
            class that the teacher lacks, or for one that the student lacks.
        """
        aliases = aliases or {}
        for source, target in aliases.items():
            if source not in teacher or target not in student:
                raise ConfigError(
                    f'label alias {source!r:.60}: {target!r:.60}: expected a class of the teacher '
                    f'({", ".join(teacher):.200}) and one of the student ({", ".join(student):.200})')
        named = [aliases.get(name, name) for name in teacher]
        for who, names in (('student', student), ('teacher', named)):
            if len(set(names)) != len(names):
                raise ConfigError(f'labels of the {who} name a class twice: {", ".join(names):.200}')
        if not set(named) & set(student):
            raise ConfigError(f'teacher ({", ".join(teacher):.200}) and student ({", ".join(student):.200}) '
                              'have no class in common')
        labels = (*student, *(name for name in named if name not in student))
        return cls(labels, tuple(labels.index(name) for name in named))


@dataclasses.dataclass(frozen=True)
class Merged:
    """
    A merged answer.

    :param detections: descending score, class ids of `LabelMap.labels`.
    :param from_student: how many of them are the student's.
    :param cut: boxes given up to `max_detections`, of either model.
    """

    detections: Detections
    from_student: int = 0
    cut: int = 0


class Merger:
    """Applies one policy and label map."""

    def __init__(self, labels: LabelMap, settings: MergeSettings = MergeSettings()):
        """Keep both; `settings` may be replaced between frames."""
        self.labels = labels
        self.settings = settings
        self._teacher_ids = np.array(labels.teacher_ids, dtype=np.int64)

    def student_only(self, student: Detections) -> Merged:
        """Return what is published of the student's answer where the teacher gives none."""
        detections, cut = self._limited(student.above(self.settings.student_score))
        return Merged(detections, len(detections), cut)

    def teacher_only(self, teacher: Detections) -> Merged:
        """
        Return the teacher's answer by itself.

        :param teacher: class ids are its own.
        :raises ValueError: a class id that its labels do not hold.
        """
        if ((teacher.class_ids < 0) | (teacher.class_ids >= len(self._teacher_ids))).any():
            raise ValueError(f'class ids of the teacher must be in 0..{len(self._teacher_ids) - 1}')
        teacher, cut = self._limited(teacher)
        return Merged(dataclasses.replace(teacher, class_ids=self._teacher_ids[teacher.class_ids]), 0, cut)

    def merge(self, student: Detections, teacher: Detections) -> Merged:
        """
        Merge two answers about one image.

        :param student, teacher: class ids are each model's own.
        :raises ValueError: a class id that the teacher's labels do not hold.
        """
        s = self.settings
        alone = self.teacher_only(teacher)
        teacher, cut = alone.detections, alone.cut
        if s.policy == 'replace':
            return Merged(teacher, 0, cut)
        student, cut_too = self._limited(student.above(max(s.keep_score, s.student_score)))
        iou = box_iou(student.boxes_xyxy, teacher.boxes_xyxy)
        same = student.class_ids[:, None] == teacher.class_ids[None, :]
        spoken_for = (iou >= np.where(same, s.same_iou, s.contradict_iou)).any(axis=1)
        student = student.select(np.logical_not(spoken_for))
        # The teacher's first: of equal scores its boxes stay in front.
        together = Detections.concatenate([teacher, student])
        order = np.argsort(-together.scores, kind='stable')
        kept = order[:s.max_detections]
        return Merged(together.select(kept), int(np.count_nonzero(kept >= len(teacher))),
                      cut + cut_too + len(order) - len(kept))

    def _limited(self, detections: Detections) -> tuple[Detections, int]:
        ordered = detections.by_score()
        kept = ordered.select(slice(self.settings.max_detections))
        return kept, len(ordered) - len(kept)
