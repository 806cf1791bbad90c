# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`train`: train a detector as a configuration file says."""

from __future__ import annotations

import argparse
import contextlib
import math
from pathlib import Path

from kd_perception.cli.shared import add_training_arguments, DATA_VARIABLE, run_folder
from kd_perception.errors import TrainingError
from kd_perception.exit_codes import EXIT_OK
from kd_perception.output_folder import folder_of_one

HELP = 'Train a detector: progress with losses and images/s, checkpoints that resume exactly.'
EXAMPLES = """\
  kd_perception train --config config/training/teacher.yaml --data DATA --init picodet_s_416_coco.onnx
  kd_perception train --config config/training/teacher.yaml --data DATA --init ... --resume
  kd_perception train --config config/training/teacher_smoke.yaml        rendered images, under a minute
  python -m torch.distributed.run --standalone --nproc_per_node 2 -m -- kd_perception train --config ..."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_training_arguments(parser)
    parser.add_argument('--teacher', type=Path,
                        help='checkpoint or model file of the teacher, where the configuration distils; any '
                             'other attached detector teaches by labels')
    parser.add_argument('--start', type=Path,
                        help='checkpoint or model file to go on from, for init.kind: model')
    parser.add_argument('--resume', action='store_true',
                        help='go on from the last checkpoint of the run folder, if there is one')
    parser.add_argument('--hours', type=_hours, default=math.inf, metavar='H',
                        help='stop after this time, with a checkpoint to --resume from')


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
    alone = folder_of_one(folder) if processes.is_main else contextlib.nullcontext()
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
