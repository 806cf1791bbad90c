# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
How few bits do activations need? Calibrated, without training, on the development set.

    python -m kd_perception.training.activation_bits --config config/training/student_int8.yaml \
        --checkpoint runs/student_third/last.pt --data DATA --bits 8 6 5

A kernel of one's own would gain most at 5 and 6 bits; this tells what that would cost in accuracy.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
from pathlib import Path
import sys

from kd_perception.config import load_config
from kd_perception.errors import KdPerceptionError, TrainingError
from kd_perception.evaluation.metrics.detector_matches import report, summary
from kd_perception.training.assemble import calibrated_network
from kd_perception.training.data.datasets import load_dataset
from kd_perception.training.loop.validation import validate
from kd_perception.training.loop.weights import load_checkpoint, trained_network
from kd_perception.training.settings.run import TrainingSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line for float activations, and one for each number of bits."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', type=Path, required=True, help='a configuration with activations')
    parser.add_argument('--checkpoint', type=Path, required=True, help='of a network trained without them')
    parser.add_argument('--data', type=Path, required=True, help='folder of the data sets')
    parser.add_argument('--bits', type=int, nargs='+', choices=(5, 6, 8), default=[8, 6, 5])
    parser.add_argument('--images', type=int, default=64, help='to calibrate on (default 64)')
    args = parser.parse_args(arguments)
    try:
        settings = load_config(TrainingSettings, args.config)
        if settings.activations is None:
            raise TrainingError(f'{args.config}: has no activations')
        state = load_checkpoint(args.checkpoint)
        development = [image for dataset in settings.datasets
                       for image in load_dataset(args.data, dataset)[1]]
        without = dataclasses.replace(settings, activations=None)
        network = trained_network(without, state, args.checkpoint)
        print(f'float: {summary(report(validate(network, without, development)))}')
        for bits in args.bits:
            activations = dataclasses.replace(settings.activations, bits=bits)
            chosen = dataclasses.replace(settings, activations=activations)
            network = calibrated_network(chosen, state, args.checkpoint, args.images, args.data)
            print(f'{bits} bits: {summary(report(validate(network, chosen, development)))}', flush=True)
    except KdPerceptionError as error:
        print(f'activation_bits: error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
