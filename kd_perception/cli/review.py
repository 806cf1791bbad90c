# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`review`: view recorded hard frames, and turn them into training data (docs/how-to/review.md)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import contextlib
from pathlib import Path
import sys
from typing import Any

from kd_perception.errors import ConfigError
from kd_perception.exit_codes import EXIT_OK
from kd_perception.output_folder import OutputFolder

HELP = 'Show recorded hard frames with the boxes of student and teacher; write them as labelled images.'
EXAMPLES = """\
  kd_perception review --input hard_frames/ --out review      all recordings of a folder -> review/review.html
  kd_perception review --input hard_frames/hard_20260314T101500Z_000007 --out review --sort ambiguity
  kd_perception review --input hard_frames/ --out review --max-frames 500 --export-kitti data/site_a
                             also data/site_a/images and label_2, labelled by the teacher, to train on
  kd_perception review --input hard_frames/ --edit --out data/site_a
                             correct the boxes in a browser; accepted frames become data/site_a/images and
                             label_2. Stop and go on at any time: each change is saved at once"""

PAGE_NAME, DOCUMENT_NAME = 'review.html', 'review.json'
DEFAULT_FRAMES = 200
# The working thresholds of the shipped models.
DEFAULT_STUDENT_SCORE, DEFAULT_TEACHER_SCORE = 0.52, 0.5
_COMMAND = 'kd_perception review'
_SHOWN_NOTES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--input', required=True, type=Path,
                        help='recording of hard frames (rosbag2 folder, .mcap, .db3), or a folder of several')
    parser.add_argument('--out', required=True, type=Path,
                        help=f'folder for {PAGE_NAME} and {DOCUMENT_NAME}; with --edit, the folder of labels')
    parser.add_argument('--sort', choices=('disagreement', 'ambiguity', 'time'), default='disagreement',
                        help='what comes first: the most objects that only one model sees, the highest '
                             'ambiguity, or the oldest frame (default: disagreement)')
    parser.add_argument('--max-frames', type=int, default=DEFAULT_FRAMES, metavar='N',
                        help=f'keep the first N after sorting, 0: all (default: {DEFAULT_FRAMES}); applies '
                             'to page, records and export')
    parser.add_argument('--student-score', type=_unit_interval, default=DEFAULT_STUDENT_SCORE, metavar='S',
                        help="from this score a box of the student counts; give your model's working "
                             f'threshold (default: {DEFAULT_STUDENT_SCORE:g}, that of the shipped student)')
    parser.add_argument('--teacher-score', type=_unit_interval, default=DEFAULT_TEACHER_SCORE, metavar='S',
                        help=f'the same for the teacher (default: {DEFAULT_TEACHER_SCORE:g})')
    parser.add_argument('--export-kitti', type=Path, metavar='DIR',
                        help='also write DIR/images and DIR/label_2, as training reads them; nothing that is '
                             'there is overwritten')
    parser.add_argument('--labels-from', choices=('teacher', 'student', 'verified'),
                        help='whose boxes become the labels of --export-kitti (default: teacher), or the '
                             'first proposal of --edit (default: teacher, verified where it is silent)')
    parser.add_argument('--edit', action='store_true',
                        help='serve an editor on this computer, print its address, write what is accepted')
    parser.add_argument('--port', type=int, default=0, metavar='P',
                        help='of the editor (default: a free one); a fixed one can be forwarded by ssh')
    parser.add_argument('--class', action='append', dest='classes', metavar='NAME', default=[],
                        help='class that the editor offers beside Car, Pedestrian, Cyclist and those '
                             'recorded; may be repeated')
    parser.add_argument('--overwrite', action='store_true', help='replace an earlier review in OUT')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')


def run(args: argparse.Namespace) -> int:
    """Write the review, or serve the editor; 0 unless the input holds no hard frames."""
    if args.max_frames < 0:
        raise ConfigError(f'--max-frames is {args.max_frames}, expected at least 0')
    if args.edit:
        return _edit(args)
    if args.labels_from and not args.export_kitti:
        raise ConfigError('--labels-from applies to --export-kitti and --edit')
    if args.port or args.classes:
        raise ConfigError('--port and --class apply to --edit')
    from kd_perception.review.kitti_export import KittiExport
    from kd_perception.review.run import write_review
    with contextlib.ExitStack() as stack:
        out = export_to = stack.enter_context(OutputFolder(args.out, _COMMAND, lambda: [
            name for name in (PAGE_NAME, DOCUMENT_NAME) if (args.out / name).exists()] or None))
        if args.export_kitti and args.export_kitti.resolve() != args.out.resolve():
            export_to = stack.enter_context(OutputFolder(args.export_kitti, _COMMAND))
            export_to.make_room(args.overwrite, alone=False)
        export = KittiExport(export_to, args.labels_from or 'teacher') if args.export_kitti else None
        document = write_review(selection(args), out, export, args.overwrite, args.quiet)
    _report(document, args.out)
    return EXIT_OK


def _edit(args: argparse.Namespace) -> int:
    from kd_perception.review.edit import edit
    if args.export_kitti or args.overwrite:
        raise ConfigError('--export-kitti and --overwrite do not go with --edit: --out is the folder of '
                          'labels')
    edit(selection(args), args.out, args.labels_from, args.classes, args.port, args.quiet, _print_notes)
    return EXIT_OK


def selection(args: argparse.Namespace) -> Any:
    """Return which frames are reviewed (`review.selection.Selection`)."""
    from kd_perception.recording.disagreement import WorkingScores
    from kd_perception.review.selection import Selection
    return Selection(args.input, args.sort, args.max_frames,
                     WorkingScores(args.student_score, args.teacher_score))


def _report(document: dict[str, Any], out: Path) -> None:
    """Say what was done and what was not."""
    counts, export = document['counts'], document['export']
    _print_notes(document['problems'], f', see {DOCUMENT_NAME}')
    if counts['without_picture']:
        print(f'{_COMMAND}: warning: {counts["without_picture"]} frames have no image that can be decoded',
              file=sys.stderr)
    more = '' if counts['shown'] == counts['frames'] else ' (--max-frames 0 for all)'
    print(f'{counts["shown"]} of {counts["frames"]} frames{more} -> {out / PAGE_NAME}; the models disagree '
          f'on {counts["with_disagreement"]}, {counts["without_teacher"]} have no answer of the teacher')
    if export:
        print(f'{export["images"]} labelled images -> {export["folder"]}: {export["labels"]} labels, '
              f'{export["dont_care"]} DontCare; {export["left_out"]} frames left out')


def _print_notes(problems: Sequence[str], where: str = '') -> None:
    """Print the first of what could not be read."""
    for problem in problems[:_SHOWN_NOTES]:
        print(f'{_COMMAND}: note: {problem}', file=sys.stderr)
    if len(problems) > _SHOWN_NOTES:
        print(f'{_COMMAND}: note: {len(problems)} notes in all{where}', file=sys.stderr)


def _unit_interval(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text} is out of range, expected 0 <= S <= 1')
    return value
