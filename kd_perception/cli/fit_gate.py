# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`fit-gate`: teach a student's gate which frames its teacher improves."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

from kd_perception.cli.shared import add_run_arguments, check_sets, load_detectors, set_names
from kd_perception.errors import ConfigError
from kd_perception.exit_codes import EXIT_OK
from kd_perception.output_folder import check_file_place

HELP = ('Fit the learned gate of the fallback on labelled frames, and write it into a copy of the student; '
        'the weights stay as they are.')
EXAMPLES = """\
  kd_perception fit-gate --images held/images --labels held/label_2 --student student --teacher teacher \\
      --out gated.onnx
  kd_perception fit-gate --images a/images b/images --labels a/label_2 b/label_2 --drive b \\
      --student student.onnx --teacher teacher --out student.onnx --manifest student
                      in place; b holds consecutive frames; the manifest beside it pins the new file

Use frames that the student was NOT trained on (`python -m kd_perception.training.held_out` links them), and
other frames again for `evaluate hybrid`. Objects that the labels leave out count as the teacher's false
alarms: complete the labels first (`pseudo-label`). docs/how-to/hybrid_evaluation.md says more."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--images', required=True, nargs='+', metavar='DIR',
                        help='folders of images (or recordings), one a set')
    parser.add_argument('--labels', required=True, nargs='+', metavar='DIR',
                        help='folders of KITTI labels (or topics), one for each of --images, in that order')
    parser.add_argument('--drive', nargs='+', default=[], metavar='SET',
                        help='sets whose images are consecutive frames of one camera. A set is called as its '
                             'folder, DIR of DIR/images')
    parser.add_argument('--student', required=True, help='ONNX file, or a name of the shipped manifest')
    parser.add_argument('--teacher', required=True, help='ONNX file, or a name of the shipped manifest')
    parser.add_argument('--out', required=True, type=Path, metavar='OUT.onnx',
                        help="student with the gate; may be the student's own file")
    parser.add_argument('--manifest', metavar='NAME',
                        help='also write the entry NAME of the manifest beside OUT')
    fit = parser.add_argument_group('how to fit')
    fit.add_argument('--kind', choices=('logistic', 'linear'), default='logistic',
                     help="logistic: to the rank of a frame's gain in its set (default); linear: to the gain")
    fit.add_argument('--features', metavar='NAME,...',
                     help='signals of docs/explanation/fallback_logic.md, or `all`; default: '
                          'accepted, accepted_doubt, rejected_mass, entropy, band')
    fit.add_argument('--folds', type=int, default=5, metavar='N', help='of the cross-validation (default: 5)')
    fit.add_argument('--hold-out', choices=('set', 'frame'), metavar='set|frame',
                     help='what a fold leaves out: whole sets (default with three or more sets), or frames, '
                          'those of a drive in blocks of 20')
    fit.add_argument('--seed', type=int, default=0, help='of the folds (default: 0)')
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Fit and write; every input is checked before the first image."""
    from kd_perception.attach.document import write_document
    from kd_perception.evaluation.hybrid.fit import describe, FEATURES, fit_gate
    from kd_perception.evaluation.hybrid.frames import run_both, Source
    from kd_perception.evaluation.hybrid.text import fit_lines
    from kd_perception.evaluation.metrics.class_account import account_of_classes
    from kd_perception.fallback.ambiguity import features_for
    from kd_perception.fallback.estimator import DOCUMENT, Estimator
    from kd_perception.labels.label_folder import count_frames
    from kd_perception.progress import progress
    if len(args.images) != len(args.labels):
        raise ConfigError(f'{len(args.images)} --images and {len(args.labels)} --labels: one of each a set '
                          'expected')
    names = set_names(args.images)
    check_sets('--drive', args.drive, names)
    if args.folds < 2:
        raise ConfigError('--folds: 2 or more expected')
    if args.manifest and not args.out.parent.is_dir():
        raise ConfigError(f'{args.out.parent}: no such folder')
    check_file_place(args.out)
    student, teacher = load_detectors(args, args.student, args.teacher)
    features = FEATURES
    if args.features:
        known = tuple(feature.name for feature in features_for(student.spec.labels))
        features = known if args.features == 'all' else tuple(args.features.split(','))
        if set(features) - set(known) or len(set(features)) != len(features):
            raise ConfigError(f'--features {args.features}: expected some of {", ".join(known)}, each once')
    sources = [Source(images, labels, name in args.drive, name=name)
               for images, labels, name in zip(args.images, args.labels, names)]
    with progress(total=count_frames(args.labels), unit='frame', description='both models',
                  quiet=args.quiet) as bar:
        frames = run_both(sources, student, teacher, bar.update)
    for line in [*frames.problems, *account_of_classes(frames.labels, frames.answers().merged)]:
        print(f'warning: {line}', file=sys.stderr)
    group_by = args.hold_out or ('set' if len(names) >= 3 else 'frame')
    result = fit_gate(frames, args.kind, features, args.folds, group_by, args.seed)
    document = describe(result, {'teacher': teacher.spec.name, 'teacher_sha256': teacher.sha256[:12]})
    digest = write_document(student.path, DOCUMENT, document, Estimator.of_model, args.out,
                            args.manifest or '', student.sha256)
    print(*fit_lines(result), sep='\n')
    print(f'wrote {args.out}, sha256 {digest}')
    return EXIT_OK
