# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`evaluate`: how good a detector is, with a report."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
import sys
from typing import Any

from kd_perception.cli import evaluate_compare, evaluate_drift, evaluate_hybrid
from kd_perception.cli.shared import class_protocols
from kd_perception.errors import ConfigError
from kd_perception.exit_codes import EXIT_OK

HELP = ('Average precision (KITTI, COCO), log-average miss rate and calibration of finished detections, or '
        'of a model on a recording; writes report.json and report.html.')
EXAMPLES = """\
  kd_perception evaluate --labels label_2 --detections out --out report
  kd_perception evaluate --labels label_2 --detections out --images image_2 --out report
                                                   with pictures of the worst mistakes
  kd_perception evaluate --labels label_2 --detections out --out report --class Car=0.7:Van \\
      --class Truck=0.7
  kd_perception evaluate --bag drive --labels /camera/ground_truth --model teacher --out report
  kd_perception evaluate compare before/report.json after/report.json \\
      --metric results.Car.moderate.ap_r40=0.5 --metric miss_rate.reasonable=0.01
                                                   exit code 1 if a metric became worse by more
  kd_perception evaluate compare site_old/report.json site_new/report.json \\
      --also val_old/report.json val_new/report.json --verdict compare.json
                                                   may the new model take the old one's place?
  kd_perception evaluate hybrid --help             student and teacher together
  kd_perception evaluate drift --help              false alarms and delay of the drift monitors"""
ACTIONS = {'compare': evaluate_compare, 'hybrid': evaluate_hybrid, 'drift': evaluate_drift}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest='action', metavar='[compare|hybrid|drift]')
    source = parser.add_argument_group('what to evaluate')
    source.add_argument('--labels', metavar='DIR|TOPIC',
                        help='folder of KITTI label files <frame>.txt; with --bag also the topic of labels')
    source.add_argument('--detections', metavar='DIR|TOPIC',
                        help='folder of KITTI text files <frame>.txt with the score as 16th column; with '
                             '--bag a recorded topic of detections')
    source.add_argument('--images', metavar='DIR',
                        help='folder of the images, for gallery and automatic conditions')
    source.add_argument('--bag', action='append', metavar='BAG', help='recording (rosbag2); may be repeated')
    source.add_argument('--model', help='run this on the bag or on --images: ONNX file, or a name of the '
                                        'shipped manifest')
    source.add_argument('--rename', action='append', metavar='FROM=TO',
                        help='class of the detections that goes by another name in the labels, such as '
                             'person=Pedestrian; may be repeated')
    source.add_argument('--camera', help='with --bag: name of the camera, where there are several')
    source.add_argument('--recorded', metavar='BAG',
                        help='with one --bag: recording that holds the topic of detections, where that is '
                             'not the bag itself (see launch/replay_evaluation.launch.py)')
    source.add_argument('--jobs', type=int, default=1, metavar='N',
                        help='with several --bag: worker processes; 0: one for each core that '
                             'the process may use (default: 1)')
    parser.add_argument('--out', metavar='DIR', help='folder for report.json and report.html')
    protocol = parser.add_argument_group('how to evaluate')
    protocol.add_argument('--class', action='append', dest='classes', metavar='NAME=IOU[:IGNORED,...]',
                          help="class to evaluate, instead of KITTI's Car=0.7:Van, "
                               'Pedestrian=0.5:Person_sitting and Cyclist=0.5; may be repeated')
    protocol.add_argument('--frame-info', metavar='YAML', help='conditions and scene groups of frames')
    protocol.add_argument('--bootstrap', type=int, default=200, metavar='N',
                          help='resamples for 95 %% intervals, 0 for none (default: 200)')
    protocol.add_argument('--seed', type=int, default=0, help='of the resampling (default: 0)')
    protocol.add_argument('--coco', choices=('auto', 'on', 'off'), default='auto',
                          help='COCO AP by pycocotools (default: up to 100,000 detections)')
    protocol.add_argument('--score-threshold', type=float, metavar='S',
                          help="working threshold for counts and gallery (default: the model's, else 0.5)")
    protocol.add_argument('--gallery', type=int, default=8, metavar='N',
                          help='pictures of misses and of false alarms for each class (default: 8)')
    protocol.add_argument('--no-html', action='store_true', help='write report.json only')
    protocol.add_argument('--title', default='Evaluation', help='title of report.html')
    evaluate_compare.add_arguments(actions.add_parser(
        'compare', help='differences of two reports; exit code 1 for a worse metric or a verdict of no'))
    evaluate_hybrid.add_arguments(actions.add_parser(
        'hybrid', help='AP against the share of frames sent to a teacher, gate by gate'))
    evaluate_drift.add_arguments(actions.add_parser(
        'drift', help='false alarms and delay of the drift monitors'))


def run(args: argparse.Namespace) -> int:
    """Run `evaluate`, `evaluate compare`, `evaluate hybrid` or `evaluate drift`."""
    # Before numpy is loaded: the matrix products here are small, and on a busy computer the threads that
    # OpenBLAS starts for them spend more time waiting for one another than computing.
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
    if args.action:
        return ACTIONS[args.action].run(args)
    from kd_perception.evaluation.report.folder import report_folder, REPORT_JSON
    from kd_perception.evaluation.report.run import evaluate, Inputs, Page
    from kd_perception.evaluation.report.text import summary
    options = _options(args)
    inputs = Inputs(args.labels, args.detections, args.images, args.bag or (), args.model, args.camera,
                    args.recorded, args.jobs, dict(map(_renamed, args.rename or ())), args.frame_info)
    words = sys.argv[1:]
    with report_folder(Path(args.out)) as folder:
        report = evaluate(inputs, options, folder, None if args.no_html else Page(args.title, args.gallery),
                          ['kd_perception', *(() if words[:1] == ['evaluate'] else ['evaluate']), *words],
                          own_threshold=args.score_threshold is None)
    print(*summary(report), sep='\n')
    for line in report['warnings']:
        print(f'warning: {line}', file=sys.stderr)
    print(f'wrote {Path(args.out) / REPORT_JSON}')
    return EXIT_OK


def _options(args: argparse.Namespace) -> Any:
    from kd_perception.evaluation.report.content import EvaluationOptions
    if not args.labels or not args.out:
        raise ConfigError('--labels and --out are needed')
    if bool(args.model) == bool(args.detections):
        raise ConfigError('either --detections or --model is needed')
    if args.model and not args.bag and not args.images:
        raise ConfigError('--model needs a --bag or a folder of --images')
    if args.recorded and (not args.detections or len(args.bag or ()) != 1):
        raise ConfigError('--recorded needs exactly one --bag, and --detections with the topic')
    if args.bag and args.images:
        raise ConfigError('--bag brings its own images, --images is not for it')
    if args.bootstrap < 0 or args.bootstrap > 100_000 or args.gallery < 0 or args.jobs < 0:
        raise ConfigError('--bootstrap 0 to 100000, --gallery not below 0 and --jobs not below 0 expected')
    threshold = 0.5 if args.score_threshold is None else args.score_threshold
    return EvaluationOptions(class_protocols(args.classes), bootstrap=args.bootstrap, seed=args.seed,
                             coco=args.coco, score_threshold=threshold)


def _renamed(text: str) -> tuple[str, str]:
    """Read ``FROM=TO``; ConfigError otherwise."""
    old, equals, new = text.partition('=')
    if not (old and equals and new):
        raise ConfigError(f'--rename {text!r}: FROM=TO expected, such as person=Pedestrian')
    return old, new
