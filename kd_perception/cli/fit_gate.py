# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`fit-gate`: teach a student's gate which frames its teacher improves."""
import argparse
from pathlib import Path
import sys
from typing import Any

from kd_perception.cli.evaluate_hybrid import load_models, progress
from kd_perception.cli.main import EXIT_OK, run_command
from kd_perception.errors import ConfigError
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
    parser.add_argument('--threads', type=int, default=0, metavar='N',
                        help='threads of each model; default 0: one for each core that the process may use')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')


def run(args: argparse.Namespace) -> int:
    """Fit and write; every input is checked before the first image."""
    from kd_perception.evaluation.hybrid.fit import describe, FEATURES, fit_gate
    from kd_perception.evaluation.hybrid.frames import run_both, Source
    from kd_perception.evaluation.metrics.class_account import account_of_classes
    from kd_perception.fallback.ambiguity import features_for
    if len(args.images) != len(args.labels):
        raise ConfigError(f'{len(args.images)} --images and {len(args.labels)} --labels: one of each a set '
                          'expected')
    names = set_names(args.images)
    unknown = sorted(set(args.drive) - set(names))
    if unknown:
        raise ConfigError(f'--drive {unknown[0]}: no such set; expected some of {", ".join(names)}')
    if args.folds < 2:
        raise ConfigError('--folds: 2 or more expected')
    if args.manifest and not args.out.parent.is_dir():
        raise ConfigError(f'{args.out.parent}: no such folder')
    check_file_place(args.out)
    student, teacher, facts = load_models(args.student, args.teacher, args.threads)
    features = FEATURES
    if args.features:
        known = tuple(feature.name for feature in features_for(student.spec.labels))
        features = known if args.features == 'all' else tuple(args.features.split(','))
        if set(features) - set(known) or len(set(features)) != len(features):
            raise ConfigError(f'--features {args.features}: expected some of {", ".join(known)}, each once')
    sources = [Source(images, labels, name in args.drive, name=name)
               for images, labels, name in zip(args.images, args.labels, names)]
    with progress(args.quiet, sources) as bar:
        frames = run_both(sources, student, teacher, bar.update)
    for line in [*frames.problems, *account_of_classes(frames.labels, frames.answers().merged)]:
        print(f'warning: {line}', file=sys.stderr)
    group_by = args.hold_out or ('set' if len(names) >= 3 else 'frame')
    result = fit_gate(frames, args.kind, features, args.folds, group_by, args.seed)
    document = describe(result, {'teacher': teacher.spec.name, 'teacher_sha256': teacher.sha256[:12]})
    digest = write_gate(student.path, document, args.out, args.manifest, student.sha256)
    _print(result, frames.sets)
    print(f'wrote {args.out}, sha256 {digest}')
    return EXIT_OK


def set_names(folders: list[str]) -> list[str]:
    """Return a name for each set: its folder's, or the parent's of a folder `images`; numbered if equal."""
    found: list[str] = []
    for folder in folders:
        path = Path(folder).absolute()
        name = path.parent.name if path.name in ('images', 'image_2') else path.stem
        same = sum(item == name or item.startswith(f'{name}-') for item in found)
        found.append(f'{name}-{same + 1}' if same else name)
    return found


def write_gate(student: Path, document: dict[str, Any], out: Path, manifest: str = '',
               expected_sha256: str = '') -> str:
    """
    Write a copy of a student's file that holds the document `gate`; only metadata change.

    The file appears whole or not at all, after it has been loaded and run once.

    :param manifest: name of the entry to write into the manifest beside `out`; empty: none.
    :param expected_sha256: of the student, so that the gate goes into the file that it was fitted on.
    :return: sha256 of the new file.
    :raises ModelError: the student cannot be read, or `out` cannot be written.
    """
    from kd_perception.attach.document import write_document
    from kd_perception.fallback.estimator import DOCUMENT, Estimator
    return write_document(student, DOCUMENT, document, Estimator.of_model, out, manifest, expected_sha256)


def _print(result: Any, sets: Any) -> None:
    from kd_perception.evaluation.hybrid.fit import weight_table
    trained = result.fit.estimator.trained
    print(f'{trained["frames"]} frames, {trained["folds"]} folds by {trained["held_out_by"]}, '
          f'l2 {trained["l2"]:g}; the teacher improves {trained["frames_improved"]:.0%} of the frames')
    print(f'{"set":<24}{"frames":>8}{"held-out skill":>16}   (0: as random, 1: ideal order)')
    for name, value in result.skill.items():
        print(f'{name:<24}{trained["sets"][name]:>8}{value:>16.2f}')
    area = trained['held_out_auroc']
    print(f'held-out AUROC of gaining more than the median of its set: {"-" if area is None else area}')
    print(f'{"feature":<24}{"weight":>8}   (standardised; the largest)')
    for name, weight, transform in weight_table(result.fit):
        print(f'{name:<24}{weight:>+8.3f}   {transform}')


def main() -> int:
    """Run as an executable of its own."""
    return run_command('fit-gate')


if __name__ == '__main__':
    sys.exit(main())
