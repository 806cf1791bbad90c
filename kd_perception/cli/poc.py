# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`poc`: before and after on your own labelled images, in one page. See docs/how-to/poc.md."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
from typing import Any

from kd_perception.exit_codes import EXIT_OK

HELP = ('Proof of concept on a few hundred labelled frames of your own: accuracy before and after adapting, '
        'by '
        'class and condition; speed, memory and cores for N cameras on this computer; the share of frames '
        'worth '
        'sending to the teacher; and what is missing. One page, OUT/poc.html, and OUT/poc.json.')
EXAMPLES = """\
  kd_perception poc --images site/images --labels site/label_2 --out poc       the shipped student, 300 steps
  kd_perception poc --images site/images --labels site/label_2 --out poc --minutes 20 --cameras 6
  kd_perception poc --images site/images --labels site/label_2 --out poc --no-train      before only, no torch
  kd_perception poc ... --old data/proven       also what is lost on the frames the model was proved on
Interrupted, it goes on where it stopped: give the same command again."""

PAGE_NAME = 'poc.html'
DEFAULT_STEPS = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    data = parser.add_argument_group('frames')
    data.add_argument('--images', required=True, type=Path, metavar='DIR', help='folder of images')
    data.add_argument('--labels', required=True, type=Path, metavar='DIR',
                      help='folder of KITTI label files named as the images; only type and box matter')
    data.add_argument('--old', type=Path, metavar='DIR',
                      help='data set (images/, label_2/) that the model was proved on, to see what is lost '
                           'there')
    data.add_argument('--held-out', type=float, default=0.4, metavar='SHARE',
                      help='share of the frames to measure on (default: 0.4)')
    data.add_argument('--block', type=int, metavar='N',
                      help='consecutive frames that stay together (default: by their number, 4 to 20)')
    data.add_argument('--gap', type=int, default=2, metavar='N',
                      help='frames left out between a part to train on and one to measure on (default: 2)')
    data.add_argument('--seed', type=int, default=0, help='of the choice of blocks (default: 0)')
    models = parser.add_argument_group('models and training')
    models.add_argument('--model', default='student', help='ONNX file, or a name of the shipped manifest '
                                                           '(default: student)')
    models.add_argument('--teacher', default='teacher', help='the same for the teacher (default: teacher)')
    length = models.add_mutually_exclusive_group()
    length.add_argument('--steps', type=int, default=DEFAULT_STEPS, metavar='N',
                        help=f'training steps (default: {DEFAULT_STEPS})')
    length.add_argument('--minutes', type=float, metavar='M', help='train for about so long instead')
    length.add_argument('--no-train', action='store_true', help='before only; needs no torch')
    models.add_argument('--config', type=Path, help='a file like config/training/adapt.yaml, which is the '
                                                    'default for a student')
    cost = parser.add_argument_group('cost')
    cost.add_argument('--cameras', type=int, default=4, metavar='N', help='how many cameras (default: 4)')
    cost.add_argument('--camera-hz', type=float, default=10.0, metavar='HZ', help='their rate (default: 10)')
    parser.add_argument('--out', required=True, type=Path, help=f'folder for {PAGE_NAME} and all that led '
                                                                'to it')
    parser.add_argument('--title', default='Proof of concept', help='title of the page')
    parser.add_argument('--overwrite', action='store_true', help='replace what other settings made in OUT')
    parser.add_argument('--quiet', action='store_true', help='no progress bars')


def run(args: argparse.Namespace) -> int:
    """Measure, adapt, measure again, and write the page."""
    # Here, not at the top: --help needs neither models nor plots.
    from kd_perception.poc.run import run as prove
    words = sys.argv[1:]
    prove(proof(args), ['kd_perception', 'poc', *(words[1:] if words[:1] == ['poc'] else words)])
    return EXIT_OK


def proof(args: argparse.Namespace) -> Any:
    """Return what is to be proved (`poc.run.ProofOfConcept`)."""
    from kd_perception.poc.run import ProofOfConcept
    return ProofOfConcept(**vars(args))
