# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The steps of `poc`: each is a command of this package with a folder of its own, and is not done twice.

Every step is a process: what it prints goes to OUT/commands.log, its progress to the terminal; anybody can
run it again by hand, and nothing of one step's memory is another's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import csv
import dataclasses
import hashlib
import json
import os
from pathlib import Path
import shlex
import shutil
import subprocess
import sys
import time
from typing import Any, IO

import yaml

from kd_perception.config import load_config, to_mapping
from kd_perception.errors import ConfigError, EvaluationError
from kd_perception.files import lock_folder, write_whole
from kd_perception.labels.label_folder import list_frames
from kd_perception.models.spec import ModelSpec
from kd_perception.output_folder import in_use
from kd_perception.poc.site_split import SiteSplit
from kd_perception.sources.folders import images_in

STATE_NAME, LOG_NAME = 'poc_state.json', 'commands.log'
CONFIG_NAME, ADAPTED_NAME = 'adapt.yaml', 'adapted.onnx'
TRAIN, HELD_OUT = 'train', 'held_out'
FOOTPRINT = 'footprint'
_MOST_PRINTED = 10_000
# Timing steps for --minutes: the first few are slow, as caches fill; so the estimate is on the safe side.
_PROBE_STEPS = 10
_LEAST_STEPS, _MOST_STEPS = 10, 100_000
_MADE = ('data', 'before', 'after', 'teacher', 'old_before', 'old_after', 'hybrid', 'benchmark', 'run',
         'probe', 'probe.yaml', 'blocks.yaml', CONFIG_NAME, ADAPTED_NAME, LOG_NAME)
_SAVE_EVERY = 25
_IOU50 = ('--class', 'Car=0.5:Van', '--class', 'Pedestrian=0.5:Person_sitting', '--class', 'Cyclist=0.5')


Execute = Callable[[Sequence[str], IO[str] | None], tuple[int, str]]


def run_process(command: Sequence[str], log: IO[str] | None) -> tuple[int, str]:
    """
    Run Python with these arguments; return its exit code and what it printed.

    :param log: takes its stderr; None leaves that to the terminal.
    """
    result = subprocess.run([sys.executable, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=log, text=True, check=False)
    return result.returncode, result.stdout


class Steps:
    """
    The output folder: which steps are done, with what settings.

    :param settings: what the figures depend on; a folder of other settings is refused.
    :param execute: runs a command, as `run_process`; a seam for tests.
    :raises ConfigError: the folder cannot be written, is in use, or is of another run.
    """

    def __init__(self, out: Path, settings: dict[str, Any], quiet: bool, overwrite: bool, execute: Execute):
        self.out, self._quiet, self._execute = out, quiet, execute
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(out)
            if self._lock is None:
                raise in_use(out)
            try:
                self.state = self._taken_up(settings, overwrite)
                self._save()
            except BaseException:
                self._lock.close()
                raise
        except OSError as error:
            raise ConfigError(f'{out}: cannot be written ({error.strerror or error})') from None

    def _taken_up(self, settings: dict[str, Any], overwrite: bool) -> dict[str, Any]:
        """Return the state of an earlier run with these settings, or that of a new one."""
        known = _read_state(self.out / STATE_NAME)
        if known and known['settings'] != settings:
            changed = sorted(key for key in {*settings, *known['settings']}
                             if settings.get(key) != known['settings'].get(key))
            if not overwrite:
                raise ConfigError(f'{self.out / STATE_NAME}: was made with other {", ".join(changed)}; give '
                                  '--overwrite or another --out')
            known = {}
            self._clear()
        return known or {'settings': settings, 'steps': {}, 'facts': {}}

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: Any) -> None:
        self._lock.close()

    def fact(self, name: str, make: Any) -> Any:
        """Return what was found once, and remember it."""
        if name not in self.state['facts']:
            self.state['facts'][name] = make()
            self._save()
        return self.state['facts'][name]

    def run(self, name: str, text: str, *words: str | Path) -> str:
        """
        Run a command of this package unless it is done; return what it printed.

        :raises EvaluationError: it failed; its own message is on stderr or in the log.
        """
        done = self.state['steps'].get(name)
        if done is not None:
            return done['printed']
        arguments = [str(word) for word in words]
        own = arguments[0] == FOOTPRINT
        command = ['-m', f'kd_perception.poc.{FOOTPRINT}' if own else 'kd_perception', *arguments[own:]]
        print(f'poc: {text} ...', file=sys.stderr, flush=True)
        started = time.monotonic()
        with open(self.out / LOG_NAME, 'a', encoding='utf-8') as log:
            print(f'$ python {shlex.join(command)}', file=log, flush=True)
            code, printed = self._execute(command, log if self._quiet else None)
            log.write(printed)
        if code:
            raise EvaluationError(f'step {name!r} failed with exit code {code}; see '
                                  f'{self.out / LOG_NAME}. What is done is kept: the same command goes on')
        self.state['steps'][name] = {
            'command': shlex.join(['python', *command]), 'took_s': round(time.monotonic() - started, 1),
            'printed': printed if len(printed) < _MOST_PRINTED else ''}
        self._save()
        return printed

    def _clear(self) -> None:
        """Remove what an earlier run made; other files stay."""
        for name in _MADE:
            for made in (self.out / name, self.out / f'{name}_iou50'):
                if made.is_dir():
                    shutil.rmtree(made)
                else:
                    made.unlink(missing_ok=True)

    def _save(self) -> None:
        write_whole(self.out / STATE_NAME, json.dumps(self.state, indent=1) + '\n')


def _read_state(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
        whole = isinstance(found, dict) and all(
            isinstance(found.get(key), dict) for key in ('settings', 'steps', 'facts'))
        return found if whole else {}
    except (OSError, ValueError):
        return {}


def digest(images: Path, labels: Path) -> str:
    """Return a hash of the labels' content and of the images' names and sizes."""
    found = hashlib.sha256()
    for path in images_in(images):
        found.update(f'{path.name}\0{path.stat().st_size}\0'.encode())
    for name, path in list_frames(labels).items():
        found.update(f'{name}.txt\0'.encode() + Path(path).read_bytes())
    return found.hexdigest()


def link_parts(steps: Steps, split: SiteSplit, images: Path, labels: Path) -> None:
    """
    Lay out data/train and data/held_out as data sets of links, and the held-out blocks as scene groups.

    :raises ConfigError: they cannot be written.
    """
    files = {path.stem: path for path in images_in(images)}
    try:
        for part, names in ((TRAIN, split.train), (HELD_OUT, split.held_out)):
            folder = steps.out / 'data' / part
            for place in (folder / 'images', folder / 'label_2'):
                place.mkdir(parents=True, exist_ok=True)
                for link in filter(Path.is_symlink, place.iterdir()):
                    link.unlink()
            for name in names:
                (folder / 'images' / files[name].name).symlink_to(files[name].resolve())
                (folder / 'label_2' / f'{name}.txt').symlink_to((labels / f'{name}.txt').resolve())
        blocks: dict[int, list[str]] = {}
        for name in split.held_out:
            blocks.setdefault(split.blocks[name], []).append(name)
        write_whole(steps.out / 'blocks.yaml', yaml.safe_dump(
            {'groups': [{'name': f'block_{number}', 'frames': found} for number, found in blocks.items()]}))
    except OSError as error:
        raise ConfigError(f'{steps.out}: cannot be written ({error.strerror or error})') from None


def evaluate(steps: Steps, name: str, model: str | Path, folder: Path, blocks: bool = True) -> Path:
    """Measure a model on a data set, by KITTI's IoU and by 0.5; return the folder of the full report."""
    source = ('--images', folder / 'images', '--labels', folder / 'label_2', '--model', model,
              *(('--frame-info', steps.out / 'blocks.yaml') if blocks else ()))
    steps.run(name, f'{name}: {Path(model).name} on {folder.name}', 'evaluate', *source,
              '--out', steps.out / name, '--title', f'{name}: {folder.name}', '--coco', 'off')
    steps.run(f'{name}_iou50', f'{name}: the same at IoU 0.5', 'evaluate', *source,
              '--out', steps.out / f'{name}_iou50', '--no-html', '--gallery', '0', '--coco', 'off', *_IOU50)
    return steps.out / name


def configuration_for(spec: ModelSpec, configs: Path) -> Path:
    """Return the configuration that fits a model: the student's for the plain network, else the teacher's."""
    made = spec.documents.get('provenance', {}).get('settings', {})
    plain = made.get('network', {}).get('kind') == 'plain'
    return configs / ('adapt.yaml' if plain else 'adapt_teacher.yaml')


def adapt(steps: Steps, config: Path, spec: ModelSpec, start: Path, teacher: Path, step_count: int,
          minutes: float | None) -> Path:
    """
    Train on data/train from a model file, and export; return the new model file.

    :param config: a file like config/training/adapt.yaml; its data, steps and thresholds are replaced: the
        working threshold stays the old model's, since to choose one the held-out frames would be needed.
    :param minutes: how long training may take in place of a number of steps.
    """
    from kd_perception.training.settings.run import TrainingSettings
    settings = load_config(TrainingSettings, config)
    dataset = dataclasses.replace(settings.datasets[0], folder=TRAIN, split='all', train_below=1.0,
                                  develop=False, licence='your own')
    # As many threads as the user allows (OMP_NUM_THREADS), at most all of the computer.
    threads = int(os.environ.get('OMP_NUM_THREADS') or 0) or settings.threads
    settings = dataclasses.replace(
        settings, datasets=(dataset,), evaluation=(), threads=threads, checkpoint_every=_SAVE_EVERY,
        validate_every=_MOST_STEPS, rendered=0, export=dataclasses.replace(
            settings.export, name=f'{spec.name}_poc', score=spec.thresholds.score,
            score_low=spec.thresholds.score_low, nms_iou=spec.thresholds.nms_iou))
    data = steps.out / 'data'
    more = ('--teacher', teacher) if settings.distillation is not None else ()
    if minutes is not None:
        step_count = steps.fact('steps_for_minutes', lambda: _steps_in(
            minutes, _images_per_s(steps, settings, start, more), settings.batch))
    warm_up = min(settings.optimiser.warmup_steps, step_count // 5)
    settings = dataclasses.replace(settings, steps=step_count, optimiser=dataclasses.replace(
        settings.optimiser, warmup_steps=warm_up))
    _write_settings(steps.out / CONFIG_NAME, settings)
    run, out = steps.out / 'run', steps.out / ADAPTED_NAME
    steps.run('train', f'train {step_count} steps', 'train', '--config', steps.out / CONFIG_NAME,
              '--data', data, '--run', run, '--start', start, *more, '--resume')
    steps.run('export', 'export', 'export', '--config', steps.out / CONFIG_NAME, '--data', data, '--run', run,
              '--checkpoint', run / 'last.pt', '--out', out, '--no-measure')
    return out


def _images_per_s(steps: Steps, settings: Any, start: Path, more: Sequence[Any]) -> float:
    """Train a few steps, to be thrown away, and return how fast that was."""
    short = {} if settings.binarization is None else {
        'binarization': dataclasses.replace(settings.binarization, batch_norm_batches=1)}
    probe = steps.out / 'probe.yaml'
    _write_settings(probe, dataclasses.replace(settings, steps=_PROBE_STEPS, **short))
    steps.run('probe', 'how long a training step takes', 'train', '--config', probe,
              '--data', steps.out / 'data', '--run', steps.out / 'probe', '--start', start, *more, '--resume')
    with open(steps.out / 'probe' / 'log.csv', newline='', encoding='utf-8') as file:
        return float(list(csv.DictReader(file))[-1]['images_per_s'])


def _steps_in(minutes: float, images_per_s: float, batch: int) -> int:
    return int(min(max(minutes * 60 * images_per_s / batch, _LEAST_STEPS), _MOST_STEPS))


def _write_settings(path: Path, settings: Any) -> None:
    write_whole(path, '# Written by `poc`: what it trained with.\n'
                + yaml.safe_dump(to_mapping(settings), sort_keys=False))
