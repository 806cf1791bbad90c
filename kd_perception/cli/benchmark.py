# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`benchmark`: measure the node and the models on this computer."""

from __future__ import annotations

import argparse

from kd_perception.cli import benchmark_hybrid, benchmark_models, benchmark_node

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
    subjects = parser.add_subparsers(dest='subject', required=True, metavar='node|models|hybrid')
    for name, module, meaning in (
            ('node', benchmark_node, 'overhead, age, CPU and start-up time of detector_node, over DDS'),
            ('models', benchmark_models, 'speed and size of model files, in turn on the same images'),
            ('hybrid', benchmark_hybrid,
             'student, fallback and teacher over DDS, with faults: are the promises kept?')):
        subject = subjects.add_parser(name, help=meaning)
        module.add_arguments(subject)
        subject.set_defaults(measure=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the chosen benchmark."""
    return args.measure(args)
