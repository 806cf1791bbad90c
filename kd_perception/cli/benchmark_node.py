# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`benchmark node`: what detector_node costs beyond its model."""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_perception.benchmark.node import benchmark_node, MEASUREMENTS, MODEL_HW
from kd_perception.exit_codes import EXIT_CHECK_FAILED, EXIT_OK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benchmark node`."""
    parser.add_argument(
        '--model', help='path of an ONNX file, or a name of the manifest; default: a synthetic model of '
        f'{MODEL_HW[1]}x{MODEL_HW[0]} px that needs next to no time')
    parser.add_argument('--threads', type=int, default=1, help='threads of the model (default 1)')
    parser.add_argument('--seconds', type=float, default=30.0,
                        help='duration of each measurement; the node keeps 30 s of figures (default 30)')
    parser.add_argument('--only', nargs='+', choices=MEASUREMENTS, default=MEASUREMENTS, metavar='WHAT',
                        help=f'some of: {", ".join(MEASUREMENTS)} (default: all)')
    parser.add_argument('--out', type=Path, help='folder for node_benchmark.json and node_benchmark.md')
    parser.add_argument('--check', action='store_true', help='exit code 1 when a goal is missed')


def run(args: argparse.Namespace) -> int:
    """Measure, print and store."""
    report = benchmark_node(args.model, args.threads, args.seconds, args.only, args.out)
    missed = [goal['goal'] for goal in report['goals'] if not goal['met']]
    return EXIT_CHECK_FAILED if args.check and missed else EXIT_OK
