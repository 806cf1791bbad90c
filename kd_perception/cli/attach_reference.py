# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`model attach-reference`: what frames look like where nothing has changed, for the drift monitors."""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_perception.cli.shared import add_run_arguments, add_trained_argument, image_sets, load_detectors
from kd_perception.errors import ConfigError
from kd_perception.exit_codes import EXIT_OK
from kd_perception.output_folder import check_file_place

HELP = ("Compute the drift monitors' reference statistics from representative frames and write them into a "
        'copy of a model; graph and weights stay as they are.')
EXAMPLES = """\
examples:
  kd_perception model attach-reference student --images drive1.mcap drive2.mcap --out student.onnx
  kd_perception model attach-reference student.onnx --images stills/images drive/images --drive drive \\
      --teacher teacher --out student.onnx --manifest student
                      in place; drive holds consecutive frames; the manifest beside it pins the new file

Take frames of the cameras, places, hours and weather in which nothing shall be reported: many short pieces
say more than one long drive. docs/explanation/drift.md says how many, and what --scene-frames is for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the sub-command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = HELP, EXAMPLES
    parser.add_argument('model', help='path of an ONNX file, or a name of the shipped manifest')
    parser.add_argument('--images', required=True, nargs='+', metavar='PATH',
                        help='folders of images, recordings or videos, one a set')
    parser.add_argument('--drive', nargs='+', default=[], metavar='SET',
                        help='folders whose images are consecutive frames of one camera. A set is called as '
                             'its folder, DIR of DIR/images')
    add_trained_argument(parser)
    parser.add_argument('--teacher', help='ask this model, too, for the reference of the disagreement')
    parser.add_argument('--out', type=Path, required=True, metavar='OUT.onnx',
                        help="model with the reference; may be the model's own file")
    parser.add_argument('--manifest', metavar='NAME',
                        help='also write the entry NAME of the manifest beside OUT')
    parser.add_argument('--rate-hz', type=float, default=10.0, metavar='HZ',
                        help='frame rate of the cameras to be watched (default: 10)')
    parser.add_argument('--scene-frames', type=int, default=70, metavar='N',
                        help='frames after which a camera sees something new; a longer drive is cut into '
                             'stretches of N (default: 70)')
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, compute and write; every input is checked before the first image."""
    from kd_perception.evaluation.drift.attach_reference import attach_reference
    sources = image_sets(args.images, args.drive, args.trained_on)
    check_file_place(args.out)
    if not 1 <= args.scene_frames <= 10_000 or not 0 < args.rate_hz <= 1000:
        raise ConfigError('--scene-frames 1 to 10000, --rate-hz above 0 and at most 1000 expected')
    detector, teacher = load_detectors(args, args.model, args.teacher)
    print(*attach_reference(sources, detector, teacher, args.scene_frames, args.rate_hz, args.out,
                            args.manifest or '', args.quiet), sep='\n')
    return EXIT_OK
