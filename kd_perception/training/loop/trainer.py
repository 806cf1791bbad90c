# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The training loop: resumable to the bit, with an average of the weights and a log.

Several processes (`distributed`) share each batch: weights, steps and samples do not depend on their
number, but two things are of each process's share alone. Losses are normalised in it, so the gradient is
the mean of the processes' means; and batch norms see it, the main process's statistics being those kept.
"""

from __future__ import annotations

from collections.abc import Iterator
import copy
import dataclasses
import math
from pathlib import Path
import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from kd_perception.config import from_mapping, to_mapping
from kd_perception.errors import TrainingError
from kd_perception.evaluation.metrics.detector_matches import report, summary
from kd_perception.processes.cores import thread_count
from kd_perception.training.data.datasets import (
    collate,
    load_dataset,
    MixedStream,
    unknown_types,
)
from kd_perception.training.distillation.label_teacher import label_teacher, TaughtLabels
from kd_perception.training.distillation.onnx_teacher import onnx_teacher
from kd_perception.training.export.unfold import calibrate
from kd_perception.training.loop.autocast import autocast, choose_precision
from kd_perception.training.loop.averaging import MovingAverage
from kd_perception.training.loop.distributed import Processes
from kd_perception.training.loop.run_inputs import data_folder, pretrained_view, starting_networks
from kd_perception.training.loop.run_log import append_row, forget_later_steps
from kd_perception.training.loop.student import head_levels, make_loss, make_optimiser, StudentMethods
from kd_perception.training.loop.validation import validate
from kd_perception.training.loop.weights import is_unfolded, load_checkpoint, load_teacher
from kd_perception.training.networks.preprocess import FromCamera
from kd_perception.training.settings.run import at_any_pace, ExportSettings, TrainingSettings

CHECKPOINT_NAME = 'last.pt'
LOG_NAME = 'log.csv'
VALIDATION_NAME = 'validation.csv'
_LOG_FIELDS = ('total', 'classes', 'box', 'distribution', 'distil', 'lr', 'images_per_s')
_LOG_EVERY = 10
_CALIBRATION_IMAGES = 16


class Trainer:
    """
    One training run.

    :param settings: the configuration.
    :param data_root: folder that holds the data sets; not read where the configuration renders its own.
    :param run_folder: checkpoints, log and caches go here.
    :param init_path: the published weights, for `init.kind: picodet_onnx` and for sets whose labels are
        completed or verified.
    :param teacher_path: checkpoint or model file of the teacher, where the configuration distils; or any
        attached detector, which teaches by labels (see `label_teacher`), and by the losses that its head
        and its graph allow (see `onnx_teacher`).
    :param start_path: checkpoint or model file to go on from, for `init.kind: model`.
    :param processes: the processes that train together, joined; all see the same files, the main one writes.
    """

    def __init__(self, settings: TrainingSettings, data_root: Path | None, run_folder: Path,
                 init_path: Path | None, teacher_path: Path | None = None, start_path: Path | None = None,
                 processes: Processes = Processes()):
        self.settings, self.run_folder, self.processes = settings, run_folder, processes
        torch.set_num_threads(thread_count(settings.threads))
        torch.manual_seed(settings.seed)
        run_folder.mkdir(parents=True, exist_ok=True)
        self.network, pretrained, self.reference = starting_networks(settings, init_path, start_path)
        with processes.main_first():
            root = data_folder(settings, data_root, run_folder, render=processes.is_main)
            groups = [load_dataset(root, dataset) for dataset in settings.datasets]
            training = [images for images, _ in groups]
            for dataset, images in zip(settings.datasets, training):
                unknown = unknown_types(images, settings.labels)
                if unknown and processes.is_main:
                    print(f'warning: {dataset.folder}: labels of no class, taken as background: {unknown}',
                          file=sys.stderr)
            taught, foreign = settings, None
            detector = label_teacher(teacher_path, settings.labels, settings.threads)
            if detector is not None:
                foreign = onnx_teacher(detector, settings)
                compares = foreign is not None and foreign.serves
                teaching = TaughtLabels(detector, settings, run_folder, needed=not compares)
                training = teaching.apply(training)
                taught = teaching.settings_with()
                if compares:
                    taught = dataclasses.replace(taught, distillation=foreign.settings)
                if processes.is_main:
                    print(teaching.report(), *([] if foreign is None else [foreign.report()]), sep='\n',
                          file=sys.stderr)
            view = pretrained_view(settings, pretrained, training, run_folder)
        self.development = [image for _, held in groups for image in held]
        self.stream = MixedStream(taught, training, view)
        self._normalise = FromCamera(self.network).normalise
        if settings.init.kind == 'model' and is_unfolded(settings.network.kind, start_path):
            # Its batch norms hold statistics of rendered scenes; the run's own images are better.
            images = collate([self.stream[i] for i in range(min(_CALIBRATION_IMAGES, len(self.stream)))])[0]
            calibrate(self.network, self._normalise(images))
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        teacher = foreign
        if foreign is None and taught.distillation is not None and teacher_path is not None:
            teacher = load_teacher(teacher_path, settings.labels, init_path)
        self.methods = StudentMethods(taught, self.network, teacher)
        self.optimiser = make_optimiser(self.network, settings, self.methods.parameters())
        self.loss = make_loss(settings, self.network, distil=self.reference is not None)
        self.step, self._bfloat16 = 0, False
        self._moving: MovingAverage | None = None   # of the tensors as `run` lays them out

    @property
    def checkpoint_path(self) -> Path:
        """The file that `resume` reads and training replaces."""
        return self.run_folder / CHECKPOINT_NAME

    def resume(self) -> None:
        """
        Go on where the last checkpoint of the run folder stands; start anew where there is none.

        :raises TrainingError: the checkpoint is unreadable or of another configuration.
        """
        if not self.checkpoint_path.is_file():
            return
        state = load_checkpoint(self.checkpoint_path)
        if _training_part(state['settings'], self.checkpoint_path) != _training_part(
                to_mapping(self.settings), self.checkpoint_path):
            raise TrainingError(f'{self.checkpoint_path}: was made with another configuration; '
                                'choose another run folder or restore the configuration')
        self.network.load_state_dict(state['network'])
        self.average.load_state_dict(state['average'])
        self.optimiser.load_state_dict(state['optimiser'])
        self.methods.load_state_dict(state.get('methods', {}))
        self.step = int(state['step'])
        self._bfloat16 = state.get('bfloat16', False)   # the same arithmetic, wherever the run goes on

    def run(self, stop_at: int | None = None, hours: float = math.inf) -> None:
        """
        Train until the configured number of steps.

        :param stop_at: save and return after this step, as if interrupted there.
        :param hours: save and return at the first step after this time.
        :raises TrainingError: the loss is not finite, or a checkpoint cannot be written; the last good
            checkpoint stays.
        """
        settings, processes = self.settings, self.processes
        if processes.mean({'step': self.step})['step'] != self.step:
            raise TrainingError(f'{self.checkpoint_path}: the processes are at different steps; give all of '
                                'them the same run folder')
        if processes.is_main:
            for name in (LOG_NAME, VALIDATION_NAME):
                forget_later_steps(self.run_folder / name, self.step)
        processes.broadcast([*self.network.state_dict().values(), *self.average.state_dict().values(),
                             *self.methods.parameters()])
        loader = DataLoader(self.stream, batch_sampler=[processes.share(settings.batch, step)
                                                        for step in range(self.step, settings.steps)],
                            num_workers=settings.workers, collate_fn=collate)
        self.network.train().to(memory_format=torch.channels_last)
        self._moving = MovingAverage(self.average, self.network)
        self._choose_precision()
        started, seen = time.monotonic(), 0
        with tqdm(total=settings.steps, initial=self.step, desc='train', unit='step', smoothing=0.05,
                  disable=not processes.is_main) as bar:
            for images, targets in loader:
                losses = self._step(
                    self._normalise(images).contiguous(memory_format=torch.channels_last), targets)
                self.step += 1
                seen += settings.batch
                rate = seen / (time.monotonic() - started)
                bar.update()
                bar.set_postfix({'loss': f'{losses["total"]:.3f}', 'cls': f'{losses["classes"]:.3f}',
                                 'box': f'{losses["box"]:.3f}', 'kd': f'{losses["transfer"]:.3f}',
                                 'img/s': f'{rate:.1f}'})
                last = self.step in (settings.steps, stop_at) or self._time_is_up(started, hours)
                save = last or self.step % settings.checkpoint_every == 0
                if self.step == settings.steps:
                    self.methods.finish(self.network, self.average,
                                        self._batches() if processes.is_main else ())
                if save:
                    processes.broadcast([*self.network.buffers(), *self.average.buffers()])
                if processes.is_main:
                    if last or self.step % _LOG_EVERY == 0:
                        self._log(losses, rate)
                    if save:
                        self._save()
                    if self.step == settings.steps or self.step % settings.validate_every == 0:
                        self._validate(bar)
                if last:
                    break
        processes.barrier()  # none is done before the main one's files are written

    def _choose_precision(self) -> None:
        """Decide on bfloat16 where a run begins; the processes vote."""
        if self.step:
            return
        batch = collate([self.stream[i] for i in range(min(self.settings.batch, len(self.stream)))])[0]
        images = self._normalise(batch).contiguous(memory_format=torch.channels_last)
        chosen, why = choose_precision(self.settings.precision, self.network, images)
        self._bfloat16 = self.processes.mean({'chosen': float(chosen)})['chosen'] > 0.5
        if self.processes.is_main:
            tqdm.write(why)

    def _time_is_up(self, started: float, hours: float) -> bool:
        """Whether to stop; the processes agree on it where there are several."""
        if hours == math.inf:
            return False
        return self.processes.mean({'late': float(time.monotonic() - started > hours * 3600)})['late'] > 0

    def _step(self, images: torch.Tensor, targets: list) -> dict[str, float]:
        rate = learning_rate_share(self.step, self.settings)
        for group in self.optimiser.param_groups:
            group['lr'] = group['base_lr'] * rate
        taught = None
        if self.reference is not None and self.settings.loss.distil > 0:
            with torch.no_grad():
                levels = self.reference(images)
                taught = torch.cat([level[:, :len(self.settings.labels)].flatten(2) for level in levels], 2)
                taught = taught.transpose(1, 2).sigmoid()
        self.methods.before_step(self.step, self._batches())
        losses, transfer = self._losses(images, targets, taught)
        # The mean is not finite where one process's loss is not: all stop, and none waits for another.
        values = self.processes.mean({name: float(value.detach()) for name, value in losses.items()})
        if not math.isfinite(values['total']):
            raise TrainingError(f'step {self.step}: the loss is {values["total"]}; stopped. '
                                f'{self.checkpoint_path} holds the last good state')
        self.optimiser.zero_grad(set_to_none=True)
        losses['total'].backward()
        trained = [*self.network.parameters(), *self.methods.parameters()]
        self.processes.average_gradients(trained)
        norm = nn.utils.clip_grad_norm_(trained, self.settings.optimiser.clip_norm)
        if not torch.isfinite(norm):
            raise TrainingError(f'step {self.step}: the gradient is not finite; stopped. '
                                f'{self.checkpoint_path} holds the last good state')
        self.optimiser.step()
        self.methods.after_step(self.step)
        # A short average first, so that the start does not linger in it.
        decay = min(self.settings.optimiser.ema_decay, (1 + self.step) / (10 + self.step))
        self._moving.follow(1 - decay)
        return {**values, 'transfer': values.get('distil', 0.0) + sum(values[name] for name in transfer)}

    def _losses(self, images: torch.Tensor, targets: list, taught: torch.Tensor | None
                ) -> tuple[dict[str, torch.Tensor], list[str]]:
        """Return the terms by name with their 'total', and the names of those that a teacher gives."""
        if not self.methods.distils:
            with autocast(self._bfloat16):
                levels = self.network(images)
            return self.loss([level.float() for level in levels], targets, taught), []
        with autocast(self._bfloat16):
            named = self.network.forward_features(images)
        named = {name: value.float() for name, value in named.items()}
        losses = self.loss([named[name] for name in head_levels(self.network)], targets, taught)
        terms = self.methods.terms(images, named, targets, self.step)
        total = losses['total'] + sum(terms.values())
        return {**losses, **{f'kd_{name}': value for name, value in terms.items()}, 'total': total}, [
            f'kd_{name}' for name in terms]

    def _batches(self) -> Iterator[torch.Tensor]:
        """Yield the images of the run's first steps again, normalised."""
        size = self.settings.batch
        for first in range(0, len(self.stream) - size + 1, size):
            yield self._normalise(collate([self.stream[i] for i in range(first, first + size)])[0])

    def _save(self) -> None:
        state = {'settings': to_mapping(self.settings), 'step': self.step,
                 'network': self.network.state_dict(), 'average': self.average.state_dict(),
                 'optimiser': self.optimiser.state_dict(), 'methods': self.methods.state_dict(),
                 'bfloat16': self._bfloat16}
        temporary = self.checkpoint_path.with_suffix('.tmp')
        try:
            torch.save(state, temporary)
            temporary.replace(self.checkpoint_path)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if not isinstance(error, (OSError, RuntimeError)):  # torch reports a full disk as RuntimeError
                raise
            raise TrainingError(
                f'{self.checkpoint_path}: cannot be written ({error}); the last one stays') from error

    def _log(self, losses: dict[str, float], rate: float) -> None:
        values = {**losses, 'lr': self.optimiser.param_groups[0]['lr'], 'images_per_s': rate}
        fields = [*_LOG_FIELDS, *(name for name in losses if name not in (*_LOG_FIELDS, 'transfer'))]
        row = {'step': self.step, **{f: f'{values.get(f, 0.0):.6g}' for f in fields}}
        append_row(self.run_folder / LOG_NAME, row)

    def _validate(self, bar: tqdm) -> None:
        if not self.development:
            return
        found = report(validate(self.average, self.settings, self.development))
        bar.write(f'step {self.step} development: ' + summary(found))
        append_row(self.run_folder / VALIDATION_NAME,
                   {'step': self.step, **{name: e['ap50'] for name, e in found.items()}})


def learning_rate_share(step: int, settings: TrainingSettings) -> float:
    """Linear warm-up, then a cosine down to `final_lr_share`."""
    optimiser = settings.optimiser
    if step < optimiser.warmup_steps:
        return (step + 1) / optimiser.warmup_steps
    done = (step - optimiser.warmup_steps) / max(1, settings.steps - optimiser.warmup_steps)
    low = optimiser.final_lr_share
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _training_part(settings: dict, source: Path) -> TrainingSettings:
    """Return the settings without what only matters after training."""
    return dataclasses.replace(at_any_pace(from_mapping(TrainingSettings, settings, str(source))),
                               export=ExportSettings(), evaluation=())
