# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`benchmark`: measure the node and the models on this computer."""

from __future__ import annotations

import argparse
import sys

from kd_perception.cli.main import run_command

HELP = 'Measure on this computer what the package promises about speed.'
EXAMPLES = """\
  kd_perception benchmark node                     about 2 minutes; prints a table
  kd_perception benchmark node --model teacher --out build/benchmark
  kd_perception benchmark node --only overhead age --check
                                                   exit code 1 when a goal is missed
  kd_perception benchmark models --threads 1 2     the shipped models, in turn on the same images
  kd_perception benchmark hybrid --faults some --out build/hybrid
                                                   5 minutes; exit code 1 when a promise is broken"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from kd_perception.benchmark import models as benchmark_models
    from kd_perception.benchmark import node as benchmark_node
    from kd_perception.benchmark.hybrid import benchmark as benchmark_hybrid
    subjects = parser.add_subparsers(dest='subject', required=True, metavar='node|models|hybrid')
    node = subjects.add_parser('node', help='overhead, age, CPU and start-up time of detector_node, over DDS')
    benchmark_node.add_arguments(node)
    node.set_defaults(measure=benchmark_node.run)
    models = subjects.add_parser('models', help='speed and size of model files, in turn on the same images')
    benchmark_models.add_arguments(models)
    models.set_defaults(measure=benchmark_models.run)
    hybrid = subjects.add_parser(
        'hybrid', help='student, fallback and teacher over DDS, with faults: are the promises kept?')
    benchmark_hybrid.add_arguments(hybrid)
    hybrid.set_defaults(measure=benchmark_hybrid.run)


def run(args: argparse.Namespace) -> int:
    """Run the chosen benchmark."""
    return args.measure(args)


def main() -> int:
    """Entry point of the executable."""
    return run_command('benchmark')


if __name__ == '__main__':
    sys.exit(main())
