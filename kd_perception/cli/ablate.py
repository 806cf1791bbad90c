# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`ablate`: what each ingredient of a student buys, on identical steps and several seeds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from kd_perception.cli.shared import add_data_arguments
from kd_perception.errors import TrainingError
from kd_perception.exit_codes import EXIT_OK
from kd_perception.files import write_whole
from kd_perception.output_folder import folder_of_one

HELP = 'Train a student with one ingredient changed at a time; table and plot of AP and miss rate over seeds.'
EXAMPLES = """\
  kd_perception ablate --config config/training/ablation.yaml --data DATA --init picodet_s_416_coco.onnx \\
                       --teacher models/teacher.onnx --out runs/ablation
  the same again: goes on where it was interrupted
  kd_perception ablate --config config/training/ablation_smoke.yaml --teacher runs/teacher_smoke/last.pt \\
                       --out runs/ablation_smoke              rendered images, about a minute"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--config', required=True, type=Path,
                        help='a file like config/training/ablation.yaml')
    add_data_arguments(parser)
    parser.add_argument('--teacher', required=True, type=Path, help='checkpoint or model file of the teacher')
    parser.add_argument('--out', required=True, type=Path,
                        help='folder for the runs, ablation.json, ablation.md and ablation.png')
    parser.add_argument('--runs', type=int, metavar='N', help='train at most N runs now; the rest later')


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then write table and plot of what there is."""
    from kd_perception.config import load_config
    from kd_perception.training.ablation import Ablation, AblationSettings
    settings = load_config(AblationSettings, args.config)
    if not args.teacher.is_file():
        raise TrainingError(f'{args.teacher}: no such file')
    if args.data is None and not settings.training.rendered:
        raise TrainingError('give the folder of the data sets with --data')
    with folder_of_one(args.out):
        return _ablate(args, Ablation(settings, args.data, args.out, args.init, args.teacher))


def _ablate(args: argparse.Namespace, ablation: Any) -> int:
    from kd_perception.training.ablation import SUMMARY_NAME
    from kd_perception.training.ablation_report import markdown, plot, summarise
    settings = ablation.settings
    ablation.train_warm_start()
    runs = ablation.runs()
    results = []
    for number, (arm, seed) in enumerate(runs if args.runs is None else runs[:args.runs], 1):
        print(f'run {number} of {len(runs)}: {settings.arms[arm].title}, seed {seed}', flush=True)
        results.append(ablation.run(arm, seed))
        # After each run: whatever interrupts the rest, the table of what is done is there.
        summary = summarise(results, {name: a.title for name, a in settings.arms.items()}, settings.reference)
        write_whole(args.out / SUMMARY_NAME, json.dumps(summary, indent=1))
        write_whole(args.out / 'ablation.md', markdown(summary))
    if results:
        plot(summary, args.out / 'ablation.png')
        print(markdown(summary))
    print(f'{len(results)} of {len(runs)} runs; {args.out / SUMMARY_NAME}')
    return EXIT_OK
