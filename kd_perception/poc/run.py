# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A proof of concept from frames to page: check, split, measure, adapt, measure again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import ConfigError
from kd_perception.images.scene import measure_scene
from kd_perception.labels.label_check import check_labels
from kd_perception.labels.label_folder import list_frames
from kd_perception.models.manifest import resolve_model
from kd_perception.poc.camera_cost import CameraPlan
from kd_perception.poc.report import Findings, write_page
from kd_perception.poc.site_gaps import count_objects
from kd_perception.poc.site_split import split_site
from kd_perception.poc.steps import (
    adapt,
    configuration_for,
    digest,
    evaluate,
    FOOTPRINT,
    HELD_OUT,
    link_parts,
    run_process,
    Steps,
)
from kd_perception.progress import progress
from kd_perception.resources import models_folder, share_folder

PAGE_NAME, DOCUMENT_NAME = 'poc.html', 'poc.json'
ROUNDS = 60


@dataclasses.dataclass(frozen=True)
class ProofOfConcept:
    """
    What is proved on which frames; the fields are the options of `poc`.

    :param old: data set that the model was proved on. :param held_out: share of the frames to measure on, in
        blocks of `block` consecutive ones; `gap` frames are left out between the parts.
    :param no_train: before only. :param minutes: train for about so long instead of `steps`.
    """

    images: Path
    labels: Path
    out: Path
    old: Path | None
    held_out: float
    block: int | None
    gap: int
    seed: int
    model: str
    teacher: str
    steps: int
    minutes: float | None
    no_train: bool
    config: Path | None
    cameras: int
    camera_hz: float
    title: str
    overwrite: bool
    quiet: bool


def run(proof: ProofOfConcept, command: Sequence[str], execute: Any = run_process) -> None:
    """
    Measure, adapt, measure again, and write the page.

    :param command: as typed, for the page. :param execute: a seam for tests.
    """
    _check(proof)
    plan = CameraPlan(proof.cameras, proof.camera_hz)
    student, teacher = (OnnxDetector.named(name) for name in (proof.model, proof.teacher))
    models = {name: resolve_model(path, models_folder()).resolve()
              for name, path in (('before', proof.model), ('teacher', proof.teacher))}
    check, split, signals = _site(proof, student.spec.labels)
    with Steps(proof.out, _settings(proof, student, teacher), proof.quiet, proof.overwrite,
               execute) as steps:
        link_parts(steps, split, proof.images.resolve(), proof.labels.resolve())
        print(f'{len(check.usable)} frames in {split.sequences} sequences: {len(split.train)} to train on, '
              f'{len(split.held_out)} held out in {split.held_out_blocks} blocks, {len(split.left_out)} left '
              'out beside these', flush=True)
        folders, footprint = _measure(proof, steps, student.spec, models)
        write_page(Findings(
            proof.out, folders, split, check, signals,
            count_objects(check.labels, split.train, student.spec.labels), footprint, plan, proof.title,
            list(command), steps.state, models),
            proof.out / PAGE_NAME, proof.out / DOCUMENT_NAME)


def _site(proof: ProofOfConcept, classes: Sequence[str]) -> tuple[Any, Any, list[Any]]:
    """Check the frames and split them; return (`FolderCheck`, `SiteSplit`, signals of the usable frames)."""
    signals: dict[str, Any] = {}
    with progress(total=len(list_frames(proof.labels)), unit='file', description='check labels',
                  quiet=proof.quiet) as bar:
        check = check_labels(proof.images, proof.labels, classes, bar.update,
                             lambda name, pixels: signals.update({name: measure_scene(pixels)}))
    if not check.usable:
        first = f', first: {check.errors[0]}' if check.errors else ''
        raise ConfigError(f'{proof.labels}: no frame without an error{first}')
    objects = {name: Counter(kind for kind in check.labels[name].types if kind in classes)
               for name in check.usable}
    split = split_site(check.usable, objects, proof.held_out, proof.block, proof.gap, proof.seed)
    return check, split, [signals.get(name) for name in check.usable]


def _measure(proof: ProofOfConcept, steps: Any, spec: Any, models: dict[str, Path]) -> tuple[Any, Any]:
    """Run the steps; return reports' folders and footprint by role. Adds the adapted model to `models`."""
    held_out = proof.out / 'data' / HELD_OUT
    folders = {name: evaluate(steps, name, models[name], held_out)
               for name in ('before', 'teacher')}
    if not proof.no_train:
        configs = share_folder() / 'config' / 'training'
        teacher = models.pop('teacher')
        models['after'] = adapt(
            steps, proof.config or configuration_for(spec, configs), spec, models['before'], teacher,
            proof.steps, proof.minutes)
        models['teacher'] = teacher  # the page shows them in this order
        folders['after'] = evaluate(steps, 'after', models['after'], held_out)
    if proof.old:
        for name in ('before', 'after')[:1 if proof.no_train else 2]:
            folders[f'old_{name}'] = evaluate(steps, f'old_{name}', models[name], proof.old.resolve(),
                                              blocks=False)
    last = models.get('after', models['before'])
    images, labels = held_out / 'images', held_out / 'label_2'
    steps.run('hybrid', 'what sending frames to the teacher buys', 'evaluate', 'hybrid', '--images', images,
              '--labels', labels, '--student', last, '--teacher', models['teacher'], '--out',
              proof.out / 'hybrid')
    steps.run('benchmark', 'speed', 'benchmark', 'models', '--model', models['teacher'], '--model', last,
              '--input', images, '--rounds', ROUNDS, '--threads', 1, '--out', proof.out / 'benchmark')
    footprint = {name: json.loads(steps.run(
        f'footprint_{name}', f'processor and memory of the {name}', FOOTPRINT, '--model', path,
        '--images', images)) for name, path in (('student', last), ('teacher', models['teacher']))}
    return folders, footprint


def _check(proof: ProofOfConcept) -> None:
    """Refuse what cannot work before an hour is spent."""
    if not proof.no_train and importlib.util.find_spec('torch') is None:
        raise ConfigError('adapting needs the Python package torch (`make env-train`); --no-train measures '
                          'without')
    if not 0.1 <= proof.held_out <= 0.9 or proof.gap < 0 or (proof.block is not None and proof.block < 1):
        raise ConfigError('--held-out 0.1 to 0.9, --gap not below 0 and --block not below 1 expected')
    if not 1 <= proof.steps <= 1_000_000 or (proof.minutes is not None and not 0 < proof.minutes <= 10_000):
        raise ConfigError('--steps 1 to 1000000 and --minutes above 0 to 10000 expected')


def _settings(proof: ProofOfConcept, student: Any, teacher: Any) -> dict[str, Any]:
    """Return what the figures depend on."""
    length = {'no_train': True} if proof.no_train else (
        {'minutes': proof.minutes} if proof.minutes is not None else {'steps': proof.steps})
    config = proof.config.read_text(encoding='utf-8') if proof.config else 'default'
    old = digest(proof.old / 'images', proof.old / 'label_2') if proof.old and list_frames(
        proof.old / 'label_2') else ''
    return {'frames': digest(proof.images, proof.labels), 'old': old, 'held_out': proof.held_out,
            'block': proof.block, 'gap': proof.gap, 'seed': proof.seed, 'model': student.sha256,
            'teacher': teacher.sha256, 'config': config, **length}
