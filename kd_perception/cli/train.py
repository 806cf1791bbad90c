# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`train`: train a detector as a configuration file says."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import contextlib
import math
import os
from pathlib import Path

from kd_perception.cli.main import EXIT_OK, run_command
from kd_perception.errors import TrainingError
from kd_perception.files import lock_folder
from kd_perception.output_folder import cannot_be_written, in_use

HELP = 'Train a detector: progress with losses and images/s, checkpoints that resume exactly.'
EXAMPLES = """\
  kd_perception train --config config/training/teacher.yaml --data DATA --init picodet_s_416_coco.onnx
  kd_perception train --config config/training/teacher.yaml --data DATA --init ... --resume
  kd_perception train --config config/training/teacher_smoke.yaml        rendered images, under a minute
  python -m torch.distributed.run --standalone --nproc_per_node 2 -m -- kd_perception train --config ..."""
DATA_VARIABLE = 'KD_PERCEPTION_DATA'
INIT_VARIABLE = 'KD_PERCEPTION_PICODET_ONNX'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_run_arguments(parser)
    parser.add_argument('--teacher', type=Path,
                        help='checkpoint or model file of the teacher, where the configuration distils; any '
                             'other attached detector teaches by labels')
    parser.add_argument('--start', type=Path,
                        help='checkpoint or model file to go on from, for init.kind: model')
    parser.add_argument('--resume', action='store_true',
                        help='go on from the last checkpoint of the run folder, if there is one')
    parser.add_argument('--hours', type=_hours, default=math.inf, metavar='H',
                        help='stop after this time, with a checkpoint to --resume from')


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `train` and `export` share: configuration, data, initial weights, run folder."""
    parser.add_argument('--config', required=True, type=Path, help='a file like config/training/teacher.yaml')
    add_data_arguments(parser)
    parser.add_argument('--run', type=Path,
                        help='folder for checkpoints and logs (default: runs/<config name>)')


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where data and published weights are."""
    parser.add_argument('--data', type=Path, default=_from_environment(DATA_VARIABLE),
                        help=f'folder that holds the data sets (default: ${DATA_VARIABLE})')
    parser.add_argument('--init', type=Path, default=_from_environment(INIT_VARIABLE),
                        help=f'published initial weights (default: ${INIT_VARIABLE})')


def run_folder(args: argparse.Namespace) -> Path:
    """Return the run's folder."""
    return args.run or Path('runs') / args.config.stem


@contextlib.contextmanager
def run_folder_of_one(folder: Path) -> Iterator[None]:
    """
    Keep other trainings out of a run's folder, which is made where it is missing.

    :raises ConfigError: one is at work there, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder)
    except OSError as error:
        raise cannot_be_written(folder, error) from error
    if lock is None:
        raise in_use(folder)
    with lock:
        yield


def run(args: argparse.Namespace) -> int:
    """Train."""
    from kd_perception.config import load_config
    from kd_perception.training.loop.distributed import Processes
    from kd_perception.training.loop.trainer import CHECKPOINT_NAME, Trainer
    from kd_perception.training.settings.run import TrainingSettings
    settings = load_config(TrainingSettings, args.config)
    folder = run_folder(args)
    if args.data is None and not settings.rendered:
        raise TrainingError(f'give the folder of the data sets with --data or ${DATA_VARIABLE}')
    if not args.resume and (folder / CHECKPOINT_NAME).exists():
        raise TrainingError(f'{folder / CHECKPOINT_NAME} exists: add --resume, or choose another --run')
    processes = Processes.from_environment()
    alone = run_folder_of_one(folder) if processes.is_main else contextlib.nullcontext()
    with alone, processes.joined(settings.batch):
        trainer = Trainer(settings, args.data, folder, args.init, args.teacher, args.start, processes)
        if args.resume:
            trainer.resume()
        trainer.run(hours=args.hours)
    if processes.is_main:
        all_done = trainer.step == settings.steps
        print('done' if all_done else f'stopped at step {trainer.step} of {settings.steps}',
              trainer.checkpoint_path, sep=': ')
    return EXIT_OK


def _hours(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(text)   # argparse says which argument it was
    return value


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


def main() -> int:
    """Run as an executable of its own."""
    return run_command('train')
