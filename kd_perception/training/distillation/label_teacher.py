# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A detector of any family as the teacher: what it finds becomes labels of the training images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.errors import KdPerceptionError, TrainingError
from kd_perception.files import read_text, write_whole
from kd_perception.labels.label_merge import IGNORED, merge_labels, Thresholds
from kd_perception.training.data.datasets import LabelledImage
from kd_perception.training.networks.picodet import STRIDES
from kd_perception.training.settings.run import DatasetSettings, PseudoLabelSettings, TrainingSettings

CACHE_NAME = 'teacher_detections.json'
_MAX_CACHE_BYTES = 256 << 20


def label_teacher(path: Path | None, labels: Sequence[str], threads: int = 1) -> OnnxDetector | None:
    """Return a teacher whose head no loss can compare with the student's; None for any other file."""
    if path is None or path.suffix not in ('.onnx', '.xml'):
        return None
    detector = OnnxDetector.load(path, ExecutionOptions(threads=threads))
    spec = detector.spec
    comparable = (spec.decoder.type == 'gfl' and spec.decoder.strides == STRIDES and spec.classes is None
                  and tuple(spec.labels) == tuple(labels))
    return None if comparable and path.suffix == '.onnx' else detector


class TaughtLabels:
    """
    What a teacher adds to the labels of a run.

    :param detector: the teacher; classes that the student does not learn are left out.
    :param folder: of the run; the detections are kept there, by the digests of model and image.
    :param needed: an error where every class is labelled already; else there are no more labels.
    :raises TrainingError: the teacher has nothing to add.
    """

    def __init__(self, detector: OnnxDetector, settings: TrainingSettings, folder: Path,
                 needed: bool = True):
        self.detector, self.settings, self.cache = detector, settings, folder / CACHE_NAME
        self.taught = tuple(name for name in detector.spec.labels if name in settings.labels)
        if not self.taught:
            raise TrainingError(f'{detector.path}: the teacher knows {list(detector.spec.labels)}, the '
                                f'student is to learn {list(settings.labels)}')
        if needed and all(set(self.taught) <= set(dataset.labelled) for dataset in settings.datasets):
            raise TrainingError(f'{detector.path}: teaches by labels, and every data set has its classes '
                                'labelled throughout; take them out of `labelled` of a set')
        self.thresholds = _thresholds(detector.spec.labels, settings.pseudo_labels)
        self.added: Counter = Counter()
        self.ignored: Counter = Counter()

    def settings_with(self) -> TrainingSettings:
        """Return the settings as they are with these labels: what is taught is labelled throughout."""
        return dataclasses.replace(self.settings, distillation=None,
                                   datasets=tuple(map(self._labelled, self.settings.datasets)))

    def apply(self, groups: Sequence[Sequence[LabelledImage]]) -> list[list[LabelledImage]]:
        """Return the images with their labels and the teacher's; images are read where not known yet."""
        known = self._read()
        before = len(known)
        labelled = [[self._with_labels(image, known) for image in group] for group in groups]
        if len(known) > before:
            write_whole(self.cache, json.dumps(
                {'sha256': self.detector.sha256, 'uncertain': self.thresholds.uncertain, 'images': known}))
        return labelled

    def report(self) -> str:
        """Say in one line what came of it."""
        added, ignored = (', '.join(f'{counts[name]} {name}' for name in self.taught)
                          for counts in (self.added, self.ignored))
        return f'{self.detector.path}: teaches by labels: {added}; left out of the loss: {ignored}'

    def _labelled(self, dataset: DatasetSettings) -> DatasetSettings:
        if set(self.taught) <= set(dataset.labelled):
            return dataset
        names = {*dataset.labelled, *self.taught}
        return dataclasses.replace(
            dataset, labelled=tuple(name for name in self.settings.labels if name in names),
            ignore={**dataset.ignore, IGNORED: self.settings.labels})

    def _with_labels(self, image: LabelledImage, known: dict[str, list]) -> LabelledImage:
        complete = frozenset(image.dataset.labelled)
        if set(self.taught) <= complete:
            return image
        digest = hashlib.sha256(image.path.read_bytes()).hexdigest()
        if digest not in known:
            known[digest] = self._detect(image.read())
        height, width, rows = known[digest]
        table = np.array(rows, np.float64).reshape(-1, 6)
        found = Detections(table[:, 2:], table[:, 1], table[:, 0])
        labels = self.detector.spec.labels
        found = found.select(np.isin(found.class_ids, [labels.index(name) for name in self.taught]))
        merged = merge_labels(image.objects, complete, found, labels, self.thresholds, (height, width))
        self.added.update(merged.added)
        self.ignored.update(merged.ignored)
        return dataclasses.replace(image, objects=merged.objects)

    def _detect(self, pixels: np.ndarray) -> list:
        found = self.detector.detect(pixels, score_threshold=self.thresholds.uncertain).detections
        return [*pixels.shape[:2], [
            [int(kind), float(score), *map(float, box)]
            for kind, score, box in zip(found.class_ids, found.scores, found.boxes_xyxy)]]

    def _read(self) -> dict[str, list]:
        """Return what is known of this model; nothing where the file is missing, damaged or of another."""
        try:
            stored = json.loads(read_text(self.cache, _MAX_CACHE_BYTES, TrainingError))
            fits = (stored['sha256'] == self.detector.sha256
                    and stored['uncertain'] == self.thresholds.uncertain)
            return dict(stored['images']) if fits else {}
        except (KdPerceptionError, OSError, ValueError, KeyError, TypeError):
            return {}


def _thresholds(labels: Sequence[str], chosen: PseudoLabelSettings) -> Thresholds:
    own = {'Car': chosen.car, 'Cyclist': chosen.rider}
    return Thresholds({name: own.get(name, chosen.person) for name in labels}, chosen.uncertain)
