# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Which nodes a demo runs: one model alone, or student, fallback and teacher."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from pathlib import Path
from typing import Any

from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.fallback.gate import GateSettings
from kd_perception.fallback.judge import Judge
from kd_perception.fallback.merge import LabelMap
from kd_perception.models.spec import ModelSpec

# Depth 5: what a busy process takes late is counted (superseded), not overwritten unseen by DDS.
_IMAGE_DEPTH = 5
# Images that the fallback keeps until the student has answered: one second's of a fast camera.
_IMAGE_BUFFER = 30
# On a small computer the student and the fallback go first; as in hybrid.launch.py.
TEACHER_NICE = 10
DETECTOR, FALLBACK = 'kd_perception.nodes.detector_node', 'kd_perception.nodes.fallback_node'
# Beyond the deadline, how long a replay in lockstep waits for an answer.
_LOCKSTEP_MARGIN_S = 5.0
# The longest that fallback_node takes.
_NO_LIMIT_S = 3600.0


@dataclasses.dataclass(frozen=True)
class NodeSpec:
    """
    A node to start.

    :param module: that `python -m` runs. :param nice: added to its niceness.
    """

    name: str
    module: str
    parameters: dict[str, Any]
    nice: int = 0


@dataclasses.dataclass(frozen=True)
class Model:
    """A model file that was loaded once, so that a bad one ends the demo before anything is started."""

    path: Path
    spec: ModelSpec
    sha256: str

    @classmethod
    def load(cls, name_or_path: str) -> Model:
        """
        Load by a path, or by a name of the shipped manifest.

        :raises ModelError: missing, corrupt or untrusted.
        """
        detector = OnnxDetector.named(name_or_path, ExecutionOptions(threads=1))
        return cls(detector.path, detector.spec, detector.sha256)

    def facts(self) -> dict[str, str]:
        """Return what the summary says about it."""
        return {'name': self.spec.name, 'file': str(self.path), 'sha256': self.sha256}


@dataclasses.dataclass(frozen=True)
class SinglePlan:
    """One model alone."""

    model: Model
    threads: int

    lockstep_topic = 'detections'
    lockstep_timeout_s = _LOCKSTEP_MARGIN_S
    image_readers = 1

    @property
    def title(self) -> str:
        """Return what runs, for people."""
        return self.model.spec.name

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the class names of what is shown."""
        return self.model.spec.labels

    def facts(self) -> dict[str, Any]:
        """Return the summary's part."""
        return {'model': self.model.facts()}

    def nodes(self, cameras: Sequence[str], lockstep: bool) -> list[NodeSpec]:
        """Return the nodes for these cameras."""
        return [_detector('detector', self.model, cameras, self.threads)]


@dataclasses.dataclass(frozen=True)
class HybridPlan:
    """
    Student, fallback and teacher.

    :param teacher: None: the fallback runs without one.
    :param share: greatest share of the frames that is sent. :param deadline_ms: greatest wait for an answer.
    :param judge: what calls a frame ambiguous.
    """

    student: Model
    teacher: Model | None
    share: float
    deadline_ms: float
    judge: Judge
    threads: int

    lockstep_topic = 'verified_detections'
    image_readers = 2   # student and fallback

    @classmethod
    def load(cls, student: str, teacher: str | None, share: float, deadline_ms: float, scorer: str,
             threads: int) -> HybridPlan:
        """
        Load the models.

        :raises ModelError: one cannot be used.
        :raises ConfigError: an unknown scorer, or models without one class in common.
        """
        first = Model.load(student)
        second = None if teacher is None else Model.load(teacher)
        plan = cls(first, second, share, deadline_ms, Judge.of_model(first.spec, str(first.path), scorer),
                   threads)
        _ = plan.labels
        return plan

    @property
    def title(self) -> str:
        """Return what runs, for people."""
        return f'{self.student.spec.name} and {self.teacher.spec.name if self.teacher else "no teacher"}'

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the class names of verified detections."""
        own = self.student.spec.labels
        return LabelMap.by_name(own, self.teacher.spec.labels if self.teacher else own).labels

    @property
    def audit_share(self) -> float:
        """Return the part of the share that is drawn by chance."""
        return min(GateSettings.audit_share, self.share)

    @property
    def enter(self) -> float | None:
        """Return the score from which a frame is ambiguous; None: it follows the camera's scores."""
        if not self.judge.knows_shares:
            return None
        return self.judge.threshold_for(self.share - self.audit_share)

    @property
    def lockstep_timeout_s(self) -> float:
        """Return how long a replay in lockstep waits for an answer."""
        return _LOCKSTEP_MARGIN_S + self.deadline_ms / 1e3

    def facts(self) -> dict[str, Any]:
        """Return the summary's part."""
        return {
            'models': {'student': self.student.facts(),
                       'teacher': self.teacher.facts() if self.teacher else None},
            'fallback': {'share': self.share, 'deadline_ms': self.deadline_ms, 'scorer': self.judge.name,
                         'enter_threshold': self.enter}}

    def nodes(self, cameras: Sequence[str], lockstep: bool) -> list[NodeSpec]:
        """
        Return the nodes for these cameras.

        :param lockstep: images come when the one before is answered: a pause is no fault of the camera.
        """
        fallback = {
            'cameras': list(cameras), 'student_model': str(self.student.path.resolve()),
            'teacher': self.teacher is not None, 'share': self.share, 'audit_share': self.audit_share,
            'deadline_ms': self.deadline_ms, 'scorer': self.judge.name, 'image_reliability': 'reliable',
            'image_buffer': _IMAGE_BUFFER, 'use_sim_time': True}
        if lockstep:
            fallback.update(camera_silence_s=_NO_LIMIT_S, student_silence_s=self.lockstep_timeout_s)
        nodes = [_detector('student', self.student, cameras, self.threads),
                 NodeSpec('fallback', FALLBACK, fallback)]
        if self.teacher is not None:
            fallback['teacher_labels'] = list(self.teacher.spec.labels)
            nodes.append(_detector('teacher', self.teacher, [f'{camera}/teacher' for camera in cameras],
                                   self.threads, TEACHER_NICE))
        return nodes


def _detector(name: str, model: Model, cameras: Sequence[str], threads: int, nice: int = 0) -> NodeSpec:
    return NodeSpec(name, DETECTOR, {
        'cameras': list(cameras), 'model': str(model.path.resolve()), 'threads': threads,
        'image_reliability': 'reliable', 'image_depth': _IMAGE_DEPTH, 'use_sim_time': True}, nice)
