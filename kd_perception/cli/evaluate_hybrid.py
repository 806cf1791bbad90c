# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`evaluate hybrid`: what does sending frames to the teacher buy, and which gate chooses them best?"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

from kd_perception.cli.shared import add_run_arguments, class_protocols, load_detectors
from kd_perception.errors import ConfigError
from kd_perception.exit_codes import EXIT_OK

HELP = ('Average precision against the share of frames sent to the teacher, for the learned gate, each '
        'signal, random and the oracle; and the gate as it runs online.')
EXAMPLES = """\
examples:
  kd_perception evaluate hybrid --images image_2 --labels label_2 --student student --teacher teacher \\
      --out report
  kd_perception evaluate hybrid --bag drive --labels /front/ground_truth --student student \\
      --teacher teacher --out report --share 0.1 --bootstrap 200
A folder's images are taken as unrelated unless --drive is given; a recording's frames follow one another, and
only then do boxes that appear and vanish count. docs/how-to/hybrid_evaluation.md explains every figure."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the sub-command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = HELP, EXAMPLES
    source = parser.add_argument_group('what to evaluate')
    source.add_argument('--labels', required=True, metavar='DIR|TOPIC',
                        help='folder of KITTI label files <frame>.txt; with --bag also the topic of labels')
    source.add_argument('--images', metavar='DIR', help='folder of the images')
    source.add_argument('--bag', metavar='BAG', help='recording (rosbag2) in place of --images')
    source.add_argument('--camera', help='with --bag: name of the camera, where there are several')
    source.add_argument('--drive', action='store_true',
                        help='the images of --images are consecutive frames of one camera')
    source.add_argument('--student', required=True, help='ONNX file, or a name of the shipped manifest')
    source.add_argument('--teacher', required=True, help='ONNX file, or a name of the shipped manifest')
    parser.add_argument('--out', required=True, metavar='DIR',
                        help='folder for report.json, report.html and three pictures (PNG)')
    how = parser.add_argument_group('how to evaluate')
    how.add_argument('--share', type=float, default=0.2, metavar='S',
                     help='share of frames that the headline figures are for (default: 0.2)')
    how.add_argument('--merge', choices=('replace', 'union'), default='replace',
                     help="the teacher's boxes alone, or the student's confident ones too (default: replace)")
    how.add_argument('--class', action='append', dest='classes', metavar='NAME=IOU[:IGNORED,...]',
                     help="class to evaluate in place of KITTI's three; may be repeated")
    how.add_argument('--bootstrap', type=int, default=0, metavar='N',
                     help='resamples of frames for 95 %% intervals (default: 0, none)')
    how.add_argument('--burst', type=float, default=2.0, metavar='N',
                     help='frames that the simulated gate may send in a row after a quiet time (default: 3)')
    how.add_argument('--phases', type=int, default=5, metavar='N',
                     help='replays of each way, each begun at another frame (default: 5)')
    how.add_argument('--teacher-ms', type=float, default=60.0, metavar='MS',
                     help='what the simulated teacher of the replay takes for an image (default: 60)')
    how.add_argument('--seed', type=int, default=0, help='of all that is left to chance (default: 0)')
    how.add_argument('--title', default='Hybrid', help='title of report.html')
    add_run_arguments(how)


def run(args: argparse.Namespace) -> int:
    """Run `evaluate hybrid`."""
    from kd_perception.evaluation.hybrid.frames import run_both, Source
    from kd_perception.evaluation.hybrid.gates import HybridOptions
    from kd_perception.evaluation.hybrid.replay import ReplayOptions
    from kd_perception.evaluation.hybrid.report import evaluate_hybrid
    from kd_perception.evaluation.hybrid.text import report_files, report_lines
    from kd_perception.evaluation.report.folder import report_folder, write_report
    from kd_perception.fallback.estimator import Estimator
    from kd_perception.fallback.merge import MergeSettings
    from kd_perception.labels.label_folder import count_frames
    from kd_perception.progress import progress
    if bool(args.images) == bool(args.bag):
        raise ConfigError('either --images or --bag is needed')
    if not 0 < args.share < 1 or not 0 <= args.bootstrap <= 100_000 or not (
            1 <= args.burst <= 1000 and 1 <= args.phases <= 100 and 0 < args.teacher_ms <= 10_000):
        raise ConfigError('--share above 0 and below 1, --bootstrap 0 to 100000, --burst 1 to 1000, '
                          '--phases 1 to 100, --teacher-ms above 0 and at most 10000 expected')
    classes = class_protocols(args.classes)
    with report_folder(Path(args.out)) as folder:
        student, teacher = load_detectors(args, args.student, args.teacher)
        estimator = Estimator.of_model(student.spec, args.student)
        source = Source(args.bag or args.images, args.labels, args.drive or bool(args.bag), args.camera)
        with progress(total=count_frames([source.labels]), unit='frame', description='both models',
                      quiet=args.quiet) as bar:
            frames = run_both([source], student, teacher, bar.update)
        facts = {'models': {role: f'{model.spec.name}, sha256 {model.sha256}'
                            for role, model in (('student', student), ('teacher', teacher))},
                 'data': {'images': source.images, 'labels': source.labels}}
        replay = ReplayOptions(teacher_ns=round(args.teacher_ms * 1e6), phases=args.phases,
                               shares=tuple(sorted({*ReplayOptions.shares, args.share})))
        options = HybridOptions(args.share, MergeSettings(policy=args.merge), args.bootstrap, args.seed,
                                args.burst, replay=replay)
        report = evaluate_hybrid(frames, estimator, options, classes, facts, ['kd_perception', *sys.argv[1:]])
        write_report(folder, report_files(report, args.title))
    print(*report_lines(report), sep='\n')
    for line in report['warnings']:
        print(f'warning: {line}', file=sys.stderr)
    print(f'wrote {Path(args.out) / "report.html"}')
    return EXIT_OK
