# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
What each ingredient of a student buys: the same network, steps and seeds, one thing changed at a time.

A run is one arm with one seed. All runs start from the same float network, trained first without a
teacher, so that a few hundred steps each can tell the arms apart; the spread over seeds is therefore that
of data order, crops and adapters, not of initial weights. Every run leaves a `result.json`; a repeated call
goes on where the last one stopped, in the middle of a run too.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import hashlib
import json
from pathlib import Path
import shutil
from typing import Any, Literal

from kd_perception.config import to_mapping
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import TrainingError
from kd_perception.evaluation.metrics.detector_matches import match_all, report
from kd_perception.evaluation.metrics.miss_rate import caltech_frames, CALTECH_SUBSETS, log_average_miss_rate
from kd_perception.files import write_whole
from kd_perception.labels.kitti_text import KittiObjects
from kd_perception.labels.object_table import ObjectTable
from kd_perception.training.data.datasets import LabelledImage
from kd_perception.training.distillation.label_teacher import label_teacher
from kd_perception.training.loop.run_inputs import data_folder, VIEW_NAME
from kd_perception.training.loop.trainer import CHECKPOINT_NAME, Trainer
from kd_perception.training.loop.validation import detector_at
from kd_perception.training.measure import evaluation_images
from kd_perception.training.settings.binarization import BinarizationSettings, StageSettings
from kd_perception.training.settings.distillation import DistillationSettings, TermSchedule
from kd_perception.training.settings.run import at_any_pace, InitSettings, TrainingSettings

TERMS = ('logits', 'localisation', 'regions', 'pyramid')
RESULT_NAME, SUMMARY_NAME = 'result.json', 'ablation.json'
WARM_START = 'warm_start'
_ALL_PEOPLE = next(subset for subset in CALTECH_SUBSETS if subset.name == 'all')


@dataclasses.dataclass(frozen=True)
class Arm:
    """
    One row of the table.

    :param title: how the table names it.
    :param binary: `none` stays float; `staged` as the configuration says; `joint`: all layers at the first
        step.
    :param transfer: the terms of the distillation that act.
    :param order: `staged` as the configuration says; `joint`: all terms from the first step.
    """

    title: str
    binary: Literal['none', 'staged', 'joint'] = 'staged'
    transfer: tuple[Literal['logits', 'localisation', 'regions', 'pyramid'], ...] = ()
    order: Literal['staged', 'joint'] = 'staged'


@dataclasses.dataclass(frozen=True)
class AblationSettings:
    """
    An ablation.

    :param training: the complete student: every arm is this with something left out.
    :param warm_start_steps: of the float network, without a teacher, that all runs start from.
    :param arms: name -> arm, in the order of the table.
    :param reference: name of the arm that the others are compared with.
    """

    training: TrainingSettings
    warm_start_steps: int
    arms: dict[str, Arm]
    reference: str
    seeds: tuple[int, ...] = (1, 2, 3)

    def __post_init__(self):
        """Check that there is something to compare."""
        if self.warm_start_steps <= 0 or not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError('expected warm_start_steps above 0 and distinct seeds')
        if self.reference not in self.arms:
            raise ValueError(f'reference: expected one of {", ".join(self.arms)}, got {self.reference!r}')
        for name in self.arms:
            if not name.replace('_', '').isalnum() or name == WARM_START:
                raise ValueError(f'arms: {name!r} cannot name a folder')
        if self.training.binarization is None or self.training.distillation is None:
            raise ValueError('training: expected both binarization and distillation')


def warm_start_settings(settings: AblationSettings) -> TrainingSettings:
    """Return the run that all arms start from: float, no teacher."""
    return dataclasses.replace(settings.training, binarization=None, distillation=None,
                               steps=settings.warm_start_steps, init=InitSettings('random'))


def arm_settings(settings: AblationSettings, arm: Arm, seed: int) -> TrainingSettings:
    """Return the training settings of one run."""
    training = settings.training
    return dataclasses.replace(
        training, seed=seed, init=InitSettings('model'),
        binarization=_binarization(training.binarization, arm),
        distillation=_distillation(training.distillation, arm))


def _binarization(complete: BinarizationSettings, arm: Arm) -> BinarizationSettings | None:
    if arm.binary == 'none':
        return None
    if arm.binary == 'staged':
        return complete
    return dataclasses.replace(complete, stages=StageSettings(deep=0.0, middle=0.0, early=0.0))


def _distillation(complete: DistillationSettings, arm: Arm) -> DistillationSettings | None:
    if not arm.transfer:
        return None
    changes: dict[str, Any] = {}
    for name in TERMS:
        term = getattr(complete, name)
        if name not in arm.transfer:
            term = dataclasses.replace(term, weight=0.0)
        elif arm.order == 'joint':
            at_once: dict[str, Any] = {'schedule': TermSchedule()}
            if name == 'pyramid':
                at_once['stagger'] = 0.0
            term = dataclasses.replace(term, **at_once)
        changes[name] = term
    return dataclasses.replace(complete, **changes)


class Ablation:
    """
    The runs of an ablation under one folder.

    :param out: `<arm>/seed_<n>/result.json` and `warm_start/` go here.
    :param data_root, init_path, teacher_path: as for `Trainer`.
    """

    def __init__(self, settings: AblationSettings, data_root: Path | None, out: Path, init_path: Path | None,
                 teacher_path: Path):
        self.settings, self.out = settings, out
        self.data_root, self.init_path, self.teacher_path = data_root, init_path, teacher_path

    @property
    def warm_start(self) -> Path:
        """The checkpoint that every run starts from."""
        return self.out / WARM_START / CHECKPOINT_NAME

    def runs(self) -> list[tuple[str, int]]:
        """List (arm, seed), seed by seed: an ablation cut short compares all arms on fewer seeds."""
        return [(name, seed) for seed in self.settings.seeds for name in self.settings.arms]

    def train_warm_start(self) -> None:
        """Train the common float network, or go on with it, or leave it as it is when it is done."""
        trainer = Trainer(warm_start_settings(self.settings), self.data_root, self.out / WARM_START,
                          self.init_path)
        trainer.resume()
        if trainer.step < self.settings.warm_start_steps:
            trainer.run()

    def run(self, name: str, seed: int) -> dict[str, Any]:
        """
        Train and measure one run, or read its result where it is done.

        :return: `sets`: set -> class -> ap50 and objects, and miss_rate of pedestrians.
        """
        settings = arm_settings(self.settings, self.settings.arms[name], seed)
        folder = self.out / name / f'seed_{seed}'
        fingerprint = self._fingerprint(settings)
        done = self._result(folder, fingerprint)
        if done is not None:
            return done
        folder.mkdir(parents=True, exist_ok=True)
        view = self.out / WARM_START / VIEW_NAME
        if view.is_file() and not (folder / VIEW_NAME).exists():
            shutil.copyfile(view, folder / VIEW_NAME)
        teacher = None if settings.distillation is None else self.teacher_path
        if label_teacher(teacher, settings.labels) is not None:
            raise TrainingError(f'{teacher}: has no head or maps that a loss could compare, and these are '
                                'what an ablation measures')
        trainer = Trainer(settings, self.data_root, folder, self.init_path, teacher, self.warm_start)
        trainer.resume()
        if trainer.step < settings.steps:
            trainer.run()
        detector = detector_at(trainer.average, settings)
        sets = {'development': measure_images(detector, settings, trainer.development)}
        root = data_folder(settings, self.data_root, folder, render=False)  # the trainer has rendered it
        for evaluation in settings.evaluation:
            sets[evaluation.folder] = measure_images(detector, settings, evaluation_images(root, evaluation))
        result = {'arm': name, 'seed': seed, 'steps': settings.steps, 'fingerprint': fingerprint,
                  'sets': sets}
        write_whole(folder / RESULT_NAME, json.dumps(result, indent=1))
        for spent in (CHECKPOINT_NAME, VIEW_NAME):  # tens of megabytes a run
            (folder / spent).unlink(missing_ok=True)
        return result

    def _fingerprint(self, settings: TrainingSettings) -> str:
        """Digest what a result depends on: settings, the network started from, the teacher."""
        digest = hashlib.sha256(json.dumps(to_mapping(at_any_pace(settings)), sort_keys=True).encode())
        for path in (self.warm_start, self.teacher_path):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    @staticmethod
    def _result(folder: Path, fingerprint: str) -> dict[str, Any] | None:
        path = folder / RESULT_NAME
        if not path.is_file():
            return None
        try:
            result = json.loads(path.read_text(encoding='utf-8'))
            same = result['fingerprint'] == fingerprint
        except (ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f'{path}: is not a result of this command; remove it to train anew') from error
        if not same:
            raise TrainingError(f'{path}: was made with another configuration, warm start or teacher; choose '
                                'another --out or restore them')
        return result


def measure_images(detector: OnnxDetector, settings: TrainingSettings, images: Sequence[LabelledImage]
                   ) -> dict[str, Any]:
    """
    Measure a detector on labelled images.

    :return: class -> ap50 (0 to 1), objects, images; and `miss_rate`: log-average miss rate (0 to 1) of
        pedestrians of 20 px and more that are at least 20 % visible (Caltech's *all*), with `pedestrians`.
    """
    found: list[KittiObjects] = []

    def detect(image):
        detections = detector.detect(image, settings.export.score_low).detections
        found.append(KittiObjects.from_boxes([settings.labels[i] for i in detections.class_ids],
                                             detections.boxes_xyxy, detections.scores))
        return detections

    entries: dict[str, Any] = report(match_all(detect, images, settings.labels))
    if 'Pedestrian' in settings.labels:
        missed = log_average_miss_rate(caltech_frames(
            ObjectTable.from_objects([image.objects for image in images]), ObjectTable.from_objects(found),
            _ALL_PEOPLE))
        entries['miss_rate'] = round(missed.lamr, 4) if missed.valid_ground_truths else None
        entries['pedestrians'] = missed.valid_ground_truths
    return entries
