# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`demo`: the hybrid (or one model alone) as real processes over DDS, on real footage."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

from kd_perception.demo.footage import FOOTAGE
from kd_perception.demo.plan import HybridPlan, Model, SinglePlan
from kd_perception.demo.play import (
    COMMAND,
    DEFAULT_DURATION_S,
    DEFAULT_FOOTAGE,
    failure,
    play,
    Playing,
    RENDERED,
)
from kd_perception.demo.run import prepare_environment
from kd_perception.errors import ConfigError
from kd_perception.exit_codes import EXIT_CHECK_FAILED, EXIT_OK

HELP = ('Run student, fallback and teacher (or one model alone) over DDS on real footage; write a recording, '
        'pictures and figures.')
EXAMPLES = """\
  kd_perception demo                               fetches a piece of street footage (once, checked)
  kd_perception demo --input my_drive/             a folder of images, a video or a recording of your own
  kd_perception demo --footage market-street       other footage: plaza, street, market-street, rendered
  kd_perception demo --share 0.5 --deadline-ms 150 a larger part to the teacher, and less time for it
  kd_perception demo --teacher none                the student has nobody to ask: DEGRADED
  kd_perception demo --model student               one model alone
  kd_perception demo --lockstep                    wait for each frame's detections: nothing is dropped"""

# The teacher takes 100 ms and more on a small computer that runs all three nodes.
_DEFAULT_DEADLINE_MS, _DEFAULT_SHARE = 400.0, 0.2
_NO_TEACHER = 'none'
# Options of the hybrid alone, by their names in the arguments.
_HYBRID_OPTIONS = ('student', 'teacher', 'share', 'deadline_ms', 'scorer')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--input', type=Path, help='your own folder of images, video or rosbag2 recording')
    parser.add_argument('--footage', choices=(*FOOTAGE, RENDERED), default=DEFAULT_FOOTAGE,
                        help=f'footage to fetch where there is no --input (default: {DEFAULT_FOOTAGE})')
    parser.add_argument('--out', type=Path, default=Path('build/demo'),
                        help='folder to write to (default: build/demo)')
    parser.add_argument('--student', metavar='M',
                        help='the model that sees each frame: path of an ONNX file, or a name of the shipped '
                             'manifest (default: student)')
    parser.add_argument('--teacher', metavar='M',
                        help='the model that ambiguous frames are sent to (default: teacher); none: the '
                             'fallback runs without one')
    parser.add_argument('--share', type=float,
                        help='greatest share of the frames that is sent to the teacher (default: '
                             f'{_DEFAULT_SHARE:g})')
    parser.add_argument('--deadline-ms', type=float, metavar='MS',
                        help=f'greatest wait for the teacher (default: {_DEFAULT_DEADLINE_MS:g}, which a '
                             'small computer keeps)')
    parser.add_argument('--scorer', help="what calls a frame ambiguous: signals (default), learned, auto, or "
                                         "a signal's name")
    parser.add_argument('--model', metavar='M',
                        help='run this one model alone, without the fallback: path of an ONNX file, or '
                             'teacher or student')
    parser.add_argument('--camera', action='append', metavar='NAME',
                        help='camera or image topic of the input; repeat for several; default: all')
    parser.add_argument('--duration', type=float, metavar='S',
                        help=f'recorded seconds to play; 0: all (default: {DEFAULT_DURATION_S:g}, or a part '
                             'of the footage)')
    parser.add_argument('--rate', type=float, default=1.0, help='speed against real time (default: 1)')
    parser.add_argument('--lockstep', action='store_true',
                        help='publish a frame only after the detections of the one before')
    parser.add_argument('--threads', type=int, metavar='N',
                        help='threads of each model; 0: one for each core that the process may use '
                             '(default: 1; with --model 0)')
    parser.add_argument('--cache', type=Path, default=Path('build/footage'),
                        help='where fetched footage is kept (default: build/footage)')


def run(args: argparse.Namespace) -> int:
    """
    Run the demo.

    :return: 0 when frames were processed; 1 when none was, or a result of the student did not get exactly one
        verified message.
    :raises KdPerceptionError: wrong input, or a node failed.
    """
    prepare_environment()
    plan = _plan(args)
    summary = play(Playing(args.input, args.footage, args.cache, tuple(args.camera or ()), args.duration,
                           args.rate, args.lockstep, args.deadline_ms or 0.0), plan, args.out)
    failed = failure(summary, args.out / 'logs')
    if failed:
        print(f'{COMMAND}: {failed}', file=sys.stderr)
    return EXIT_CHECK_FAILED if failed else EXIT_OK


def _plan(args: argparse.Namespace) -> SinglePlan | HybridPlan:
    """
    Check the arguments and load the models: a bad one ends the demo before anything is fetched or started.

    :raises ConfigError, ModelError: one line.
    """
    share = _DEFAULT_SHARE if args.share is None else args.share
    deadline_ms = _DEFAULT_DEADLINE_MS if args.deadline_ms is None else args.deadline_ms
    for name, value, low, high in (
            ('--duration', args.duration or 0.0, 0.0, 1e6), ('--rate', args.rate, 0.01, 1e6),
            ('--share', share, 0.0, 1.0), ('--deadline-ms', deadline_ms, 1.0, 60_000.0),
            ('--threads', args.threads or 0, 0, 256)):
        if not low <= value <= high:
            raise ConfigError(f'{name} is {value:g}, expected {low:g} to {high:.0f}')
    if args.model is None:
        teacher = None if args.teacher == _NO_TEACHER else args.teacher or 'teacher'
        threads = 1 if args.threads is None else args.threads
        return HybridPlan.load(
            args.student or 'student', teacher, share, deadline_ms, args.scorer or 'signals', threads)
    given = [name for name in _HYBRID_OPTIONS if getattr(args, name) is not None]
    if given:
        raise ConfigError(f'--model runs one model alone; --{given[0].replace("_", "-")} is for the hybrid')
    return SinglePlan(Model.load(args.model), args.threads or 0)
