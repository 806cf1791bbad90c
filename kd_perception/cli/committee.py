# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`committee`: measure several detectors and what they see together; fit what their scores mean."""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_perception.cli.shared import add_run_arguments, execution_options
from kd_perception.evaluation.committee import evaluate_committee, REPORT_NAME, TABLE_NAME
from kd_perception.exit_codes import EXIT_OK

HELP = 'Precision and recall of each member of a committee, and of all together, on labelled images.'
EXAMPLES = """\
  kd_perception committee --committee committee.yaml --input data/kitti_object --out report
                      AP, precision and recall by class and box height: report/committee.json,
                      committee.md
  kd_perception committee --committee raw.yaml --input data/site_labelled --out report --fit
  committee.yaml
                      also writes the committee file anew, with calibrated scores"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--committee', required=True, type=Path, help='YAML file that names the members')
    parser.add_argument('--input', required=True, nargs='+', type=Path, metavar='FOLDER',
                        help='labelled sets: images/ and label_2/')
    parser.add_argument('--out', required=True, type=Path,
                        help=f'writes OUT/{REPORT_NAME} and OUT/{TABLE_NAME}')
    parser.add_argument('--neutral', action='append', default=[], metavar='TYPE=CLASS',
                        help='labels of this type are neither missed nor wrongly found as this class '
                             '(KITTI: Van as Car, Person_sitting as Pedestrian); repeat for several')
    parser.add_argument('--fit', type=Path, metavar='FILE',
                        help="fit the members' calibration to these images, and write the committee file "
                             'with it; the report is of the new one, on the same images')
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure; 0 when done."""
    neutral = {kind: label for kind, _, label in (text.partition('=') for text in args.neutral)}
    print(evaluate_committee(args.committee, args.input, args.out, neutral, execution_options(args), args.fit,
                             args.quiet), end='')
    return EXIT_OK
