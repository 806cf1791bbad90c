# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`review`: view recorded hard frames, and turn them into training data (docs/how-to/review.md)."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import json
from pathlib import Path
import sys
from typing import Any

from kd_perception.cli.main import EXIT_OK, run_command
from kd_perception.errors import ConfigError, ImageError
from kd_perception.files import write_whole
from kd_perception.output_folder import OutputFolder
from kd_perception.recording.disagreement import compare, Disagreement, MIN_IOU, WorkingScores
from kd_perception.recording.recorded import Boxes, HardFrameSet, RecordedFrame
from kd_perception.review.page import draw_thumbnail, picture_uri, render

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
DOCUMENT_VERSION = 1
DEFAULT_FRAMES = 200
# The working thresholds of the shipped models.
DEFAULT_STUDENT_SCORE, DEFAULT_TEACHER_SCORE = 0.49, 0.5
_COMMAND = 'kd_perception review'
_SHOWN_PROBLEMS = 10


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
    """Write the review; 0 unless the input holds no hard frames."""
    if args.max_frames < 0:
        raise ConfigError(f'--max-frames is {args.max_frames}, expected at least 0')
    if args.edit:
        from kd_perception.cli.review_edit import edit
        return edit(args)
    if args.labels_from and not args.export_kitti:
        raise ConfigError('--labels-from applies to --export-kitti and --edit')
    if args.port or args.classes:
        raise ConfigError('--port and --class apply to --edit')
    with OutputFolder(args.out, _COMMAND, lambda: [
            name for name in (PAGE_NAME, DOCUMENT_NAME) if (args.out / name).exists()] or None) as out:
        if not args.export_kitti or args.export_kitti.resolve() == args.out.resolve():
            return _review(args, out, out)
        with OutputFolder(args.export_kitti, _COMMAND) as export_to:
            export_to.make_room(args.overwrite, alone=False)
            return _review(args, out, export_to)


def _review(args: argparse.Namespace, out: OutputFolder, export_to: OutputFolder) -> int:
    for name in (PAGE_NAME, DOCUMENT_NAME):
        if (args.out / name).exists() and not args.overwrite:
            raise ConfigError(f'{args.out / name}: exists already; give --overwrite or another --out')
    export = None
    if args.export_kitti:
        # Not imported for a mere look: it loads the runtime of models.
        from kd_perception.cli.review_export import KittiExport
        export = KittiExport(export_to, args.labels_from or 'teacher')
    scores = WorkingScores(args.student_score, args.teacher_score)
    found, frames, differences = chosen_frames(args, scores)
    out.make_room(args.overwrite, alone=False)
    if export:
        export.begin(frames)
    pictures: dict = {}
    problems: dict = {}
    for frame, image in progress(found.images(frames), len(frames), args.quiet):
        if image is None:
            problems[frame.key] = 'its image is missing'
            continue
        try:
            pixels = image.decode()
        except ImageError as error:
            problems[frame.key] = str(error)
            continue
        pictures[frame.key] = picture_uri(draw_thumbnail(pixels, frame, differences[frame.key], scores))
        if export:
            export.add(frame, image, pixels)
    document = {
        'version': DOCUMENT_VERSION, 'command': _COMMAND, 'input': str(args.input), 'sort': args.sort,
        'working_scores': {'student': scores.student, 'teacher': scores.teacher}, 'min_iou': MIN_IOU,
        'counts': {
            'frames': len(found.frames), 'shown': len(frames),
            'with_disagreement': sum(bool(item and item.count) for item in differences.values()),
            'without_teacher': sum(item is None for item in differences.values()),
            'without_picture': len(problems)},
        'export': export.summary() if export else None, 'problems': found.problems,
        'frames': [record(frame, differences[frame.key], problems.get(frame.key, '')) for frame in frames]}
    page = render(document, [pictures.get(frame.key) for frame in frames])
    write_whole(out.new(DOCUMENT_NAME), json.dumps(document, indent=1, allow_nan=False) + '\n')
    write_whole(out.new(PAGE_NAME), page)
    _report(document, args.out)
    return EXIT_OK


def chosen_frames(args: argparse.Namespace, scores: WorkingScores
                  ) -> tuple[HardFrameSet, list[RecordedFrame], dict[Any, Disagreement | None]]:
    """
    Read the input; return it, the frames to show in their order, and all differences by frame key.

    :raises BagError: the input holds no hard frames.
    """
    found = HardFrameSet(args.input)
    differences = {frame.key: compare(frame, scores) for frame in found.frames}
    frames = sorted(found.frames, key=_order(args.sort, differences))
    return found, frames[:args.max_frames or None], differences


def _order(sort: str, differences: dict[Any, Disagreement | None]) -> Callable[[RecordedFrame], tuple]:
    """Return a sort key; frames without the quantity come last, equal ones in the order of their stamps."""
    def key(frame: RecordedFrame) -> tuple:
        time = (frame.key.stamp_ns, frame.key)
        if sort == 'ambiguity':
            ambiguity = frame.number('ambiguity')
            return (ambiguity is None, -(ambiguity or 0.0), time)
        difference = differences[frame.key]
        if sort == 'disagreement':
            rank = (-difference.count, -difference.weight) if difference else (0, 0)
            return (difference is None, rank, time)
        return time
    return key


def record(frame: RecordedFrame, difference: Disagreement | None, image_problem: str = '') -> dict[str, Any]:
    """Return one frame's record in review.json."""
    facts = frame.facts
    entry = {
        'name': frame.name, 'bag': frame.key.bag, 'camera': frame.key.camera, 'stamp_ns': frame.key.stamp_ns,
        'frame_id': frame.frame_id, 'source': facts.get('source', ''), 'reason': facts.get('reason', ''),
        'ambiguity': frame.number('ambiguity'), 'unverified': facts.get('unverified', ''),
        'waited_ms': frame.number('waited_ms'), 'teacher_ms': frame.number('teacher_ms'),
        'disagreement': None, 'agreed': None, 'only_student': [], 'only_teacher': [], 'renamed': [],
        'image_problem': image_problem}
    if difference is not None:
        entry.update(
            disagreement=difference.count, agreed=len(difference.agreed),
            only_student=[_box(difference.student, i) for i in difference.only_student],
            only_teacher=[_box(difference.teacher, i) for i in difference.only_teacher],
            renamed=[{'student': _box(difference.student, i), 'teacher': _box(difference.teacher, j)}
                     for i, j in difference.renamed])
    return entry


def _box(boxes: Boxes, i: int) -> dict[str, Any]:
    return {'class': boxes.names[i], 'score': float(boxes.scores[i]),
            'box_xyxy': boxes.boxes_xyxy[i].tolist()}


def _report(document: dict[str, Any], out: Path) -> None:
    """Say what was done and what was not."""
    counts, export = document['counts'], document['export']
    print_notes(document['problems'], f', see {DOCUMENT_NAME}')
    if counts['without_picture']:
        print(f'{_COMMAND}: warning: {counts["without_picture"]} frames have no image that can be decoded',
              file=sys.stderr)
    more = '' if counts['shown'] == counts['frames'] else ' (--max-frames 0 for all)'
    print(f'{counts["shown"]} of {counts["frames"]} frames{more} -> {out / PAGE_NAME}; the models disagree '
          f'on {counts["with_disagreement"]}, {counts["without_teacher"]} have no answer of the teacher')
    if export:
        print(f'{export["images"]} labelled images -> {export["folder"]}: {export["labels"]} labels, '
              f'{export["dont_care"]} DontCare; {export["left_out"]} frames left out')


def print_notes(problems: Sequence[str], where: str = '') -> None:
    """Print the first of what could not be read."""
    for problem in problems[:_SHOWN_PROBLEMS]:
        print(f'{_COMMAND}: note: {problem}', file=sys.stderr)
    if len(problems) > _SHOWN_PROBLEMS:
        print(f'{_COMMAND}: note: {len(problems)} notes in all{where}', file=sys.stderr)


def progress(frames: Any, total: int, quiet: bool) -> Any:
    """Return the frames with a progress bar; silent unless stderr is a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        return frames
    return tqdm(frames, total=total, unit='frame', disable=True if quiet else None)


def _unit_interval(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text} is out of range, expected 0 <= S <= 1')
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run as an executable of its own."""
    return run_command('review', argv)


if __name__ == '__main__':
    sys.exit(main())
