# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Student and teacher on the same labelled frames: run once, kept in memory, mixed in any proportion.

Everything that `evaluate hybrid` and `fit-gate` say follows from these frames; no model runs twice.
"""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
import functools
import itertools
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kd_perception.bags.reader import is_bag
from kd_perception.boxes.detections import Detections
from kd_perception.detection.onnx_detector import DetectionResult
from kd_perception.errors import EvaluationError, ImageError
from kd_perception.evaluation.frame_set import names as some_names
from kd_perception.fallback.ambiguity import FeatureExtractor, FeatureSettings, FeatureVector
from kd_perception.fallback.flow import flow_image, FlowImage
from kd_perception.fallback.merge import LabelMap, Merger, MergeSettings
from kd_perception.images.scene import measure_scene, SceneSignals
from kd_perception.labels.kitti_text import KittiObjects
from kd_perception.labels.label_source import LabelSource
from kd_perception.labels.object_table import concatenate_tables, ObjectTable
from kd_perception.models.spec import ModelSpec
from kd_perception.sources.any_source import open_source
from kd_perception.sources.frames import Frame


class Detector(Protocol):
    """What is needed of `detection.onnx_detector.OnnxDetector`; tests bring their own."""

    spec: ModelSpec

    def detect(self, image_bgr: np.ndarray, score_threshold: float | None = None) -> DetectionResult:
        """Detect objects in one image (H, W, 3) uint8."""


@dataclass(frozen=True)
class Source:
    """
    Labelled images to run over.

    :ivar images: folder of images, recording (rosbag2), or video.
    :ivar labels: folder of KITTI label files named as the frames, or topic of the recording.
    :ivar drive: the images are consecutive frames of one camera, so that frames before a frame say
        something about it (features `appeared`, `vanished`). Recordings and videos always are.
    :ivar camera: which camera of a recording, where there are several.
    :ivar name: how reports call it.
    """

    images: str
    labels: str
    drive: bool = False
    camera: str | None = None
    name: str = ''


@dataclass(frozen=True)
class PairedFrames:
    """
    F frames with labels and both models' answers.

    :ivar names: frame names, length F. :ivar sets: name of each frame's source, length F.
    :ivar drives: (F,) int64: consecutive frames of one camera have the same number; a lone image its own.
    :ivar labels: table of the F frames.
    :ivar student, teacher: length F, each down to its model's low threshold, class ids of its own model.
    :ivar stamps_ns: (F,) int64. :ivar image_hw: (F, 2) int64 [px]. :ivar scenes: length F.
    :ivar views: length F, as boxes are carried through the images; empty where no frame follows another.
    :ivar student_spec, teacher_spec: facts of the models.
    :ivar problems: one line for each thing that a reader of the figures should know.
    """

    names: tuple[str, ...]
    sets: tuple[str, ...]
    drives: np.ndarray
    labels: ObjectTable
    student: tuple[Detections, ...]
    teacher: tuple[Detections, ...]
    stamps_ns: np.ndarray
    image_hw: np.ndarray
    scenes: tuple[SceneSignals, ...]
    student_spec: ModelSpec
    teacher_spec: ModelSpec
    problems: tuple[str, ...] = ()
    views: tuple[FlowImage, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def features(self, settings: FeatureSettings) -> list[FeatureVector]:
        """Return the feature vector of each frame, as the fallback node sees them; length F."""
        extractor = FeatureExtractor(settings, self.student_spec.labels)
        vectors = []
        for i in range(len(self)):
            if i and self.drives[i] != self.drives[i - 1]:
                extractor.reset()
            height, width = self.image_hw[i]
            vectors.append(extractor.extract(self.student[i], int(self.stamps_ns[i]),
                                             (int(height), int(width)), self.scenes[i]))
        return vectors

    def answers(self, merge: MergeSettings = MergeSettings()) -> 'Answers':
        """
        Return what is published for each frame without and with the teacher.

        :raises ConfigError: the models have no class in common.
        """
        merger = Merger(LabelMap.by_name(self.student_spec.labels, self.teacher_spec.labels), merge)
        labels = merger.labels.labels
        alone = [merger.student_only(found).detections for found in self.student]
        merged = [merger.merge(*pair).detections for pair in zip(self.student, self.teacher)]
        return Answers(self.labels, detection_table(alone, labels, self.names),
                       detection_table(merged, labels, self.names))


@dataclass(frozen=True)
class Answers:
    """
    The published answers of F frames, both ways, and the labels.

    :ivar labels, student, merged: tables of the same F frames; `merged`: had the frame been sent.
    """

    labels: ObjectTable
    student: ObjectTable
    merged: ObjectTable

    def __post_init__(self) -> None:
        if not len(self.labels.frames) == len(self.student.frames) == len(self.merged.frames):
            raise EvaluationError('labels, student and merged answers: expected the same number of frames')

    @functools.cached_property
    def _both(self) -> ObjectTable:
        return concatenate_tables([self.student, self.merged])

    def mixed(self, sent: np.ndarray) -> ObjectTable:
        """Return the detections where the frames of `sent` (F,) bool had been sent, the others not."""
        count = len(self.labels.frames)
        return self._both.take_frames(np.arange(count) + count * np.asarray(sent, dtype=np.int64))

    def take(self, index: np.ndarray) -> 'Answers':
        """Return the answers of the frames `index`, which may repeat."""
        return Answers(*(table.take_frames(index) for table in (self.labels, self.student, self.merged)))


def detection_table(detections: Sequence[Detections], labels: Sequence[str],
                    names: Sequence[str]) -> ObjectTable:
    """Return the table of detections of frames of these names; their class ids are indices of `labels`."""
    types = [label.replace(' ', '_') for label in labels]
    return ObjectTable.from_objects(
        [KittiObjects.from_boxes([types[i] for i in item.class_ids], item.boxes_xyxy, item.scores)
         for item in detections], names)


def run_both(sources: Sequence[Source], student: Detector, teacher: Detector,
             tick: Callable[[], object] = lambda: None) -> PairedFrames:
    """
    Run both models over every labelled frame, each down to its low threshold.

    Frames without labels, with the stamp of an earlier frame, or that cannot be decoded are left out, and
    `problems` says how many.

    :param tick: called after each frame, for a progress bar.
    :raises BagError, LabelError: a source cannot be read. :raises EvaluationError: no frame has labels.
    :raises ModelError: a model failed.
    """
    floors = [detector.spec.thresholds.score_low for detector in (student, teacher)]
    names: list[str] = []
    sets: list[str] = []
    problems: list[str] = []
    labels: list[Any] = []
    found: list[Any] = []
    scenes: list[Any] = []
    views: list[Any] = []
    drives: list[int] = []
    stamps: list[int] = []
    sizes: list[tuple[int, ...]] = []
    numbers = itertools.count()
    for source in sources:
        first, drive = len(names), next(numbers)
        follows = source.drive or is_bag(source.images) or Path(source.images).is_file()
        for frame, truth, name in _labelled(source, problems):
            try:
                image = frame.decode()
            except ImageError as error:
                problems.append(f'{source.images}: {name}: {error}')
                tick()
                continue
            found.append([detector.detect(image, score_threshold=floor).detections
                          for detector, floor in zip((student, teacher), floors)])
            names.append(name)
            sets.append(source.name)
            labels.append(truth)
            stamps.append(frame.stamp_ns)
            sizes.append(image.shape[:2])
            scenes.append(measure_scene(image))
            views.append(flow_image(image))
            drives.append(drive if follows else next(numbers))
            tick()
        if len(names) == first:
            raise EvaluationError(f'{source.images}: none of its frames has labels in {source.labels}')
    return PairedFrames(
        tuple(names), tuple(sets), np.array(drives, dtype=np.int64), ObjectTable.from_objects(labels, names),
        tuple(pair[0] for pair in found), tuple(pair[1] for pair in found), np.array(stamps, dtype=np.int64),
        np.array(sizes, dtype=np.int64).reshape(-1, 2), tuple(scenes), student.spec, teacher.spec,
        tuple(problems), tuple(views))


def _labelled(source: Source, problems: list[str]) -> Iterator[tuple[Frame, KittiObjects, str]]:
    """Yield (frame, labels, name) of a source's labelled frames in its order, and note what is left out."""
    labels = LabelSource(Path(source.images), source.labels)
    seen, unlabelled, repeated = set(), 0, 0
    opened = open_source(source.images, [source.camera] if source.camera else None)
    with opened:
        if len(opened.cameras) > 1:
            known = ', '.join(camera.name for camera in opened.cameras)
            raise EvaluationError(f'{source.images}: several cameras ({known}), one must be named')
        for frame in opened:
            truth = labels.of(frame.stamp_ns, frame.name)
            unlabelled += truth is None
            repeated += frame.stamp_ns in seen
            if truth is not None and frame.stamp_ns not in seen:
                seen.add(frame.stamp_ns)
                yield frame, truth, labels.name_of(frame.stamp_ns, frame.name)
    unused = labels.unused()
    for count, what in ((unlabelled, 'frames have no labels and are left out'),
                        (repeated, 'frames repeat the stamp of another and are left out'),
                        (len(unused), f'labelled frames are not in it: {some_names(unused)}')):
        if count:
            problems.append(f'{source.images}: {count} {what}')
