# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`detect`: run a model on a folder of images, a video or a bag, without ROS."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
import contextlib
import dataclasses
import json
from pathlib import Path
import sys
from typing import Any

from kd_perception.detection.drawing import draw_detections
from kd_perception.detection.input_size import parse_input_size
from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector, PROVIDERS
from kd_perception.errors import ConfigError, ImageError, KdPerceptionError
from kd_perception.exit_codes import EXIT_BAD_INPUT, EXIT_OK
from kd_perception.files import read_text, write_whole
from kd_perception.labels.detection_writers import encode_jpeg, JsonWriter, KittiWriter, McapWriter
from kd_perception.output_folder import cannot_be_written, OutputFolder
from kd_perception.sources.any_source import open_source
from kd_perception.sources.frames import folder_names, FrameSource

HELP = 'Run a model on a folder of images, a video or a recording; write KITTI text, JSON or MCAP.'
EXAMPLES = """\
  kd_perception detect --model teacher --input drive/image_02 --out out
                                                   out/<frame>.txt in KITTI's format
  kd_perception detect --model my.onnx --input clip.mp4 --out out --format json --annotated
  kd_perception detect --model teacher --input bag/ --camera front --out out --format mcap --images
                                                   out/detections.mcap, opens in Foxglove"""

# Written last: where it lies, the folder is ours and complete.
SUMMARY_NAME = 'summary.json'
PICTURES = 'annotated'
_COMMAND = 'kd_perception detect'
_SHOWN_PROBLEMS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--model', required=True,
                        help='path of an ONNX file, or a name of the shipped manifest')
    parser.add_argument('--input', required=True, type=Path,
                        help='folder of images, video, or rosbag2 recording (folder, .mcap, .db3)')
    parser.add_argument('--out', required=True, type=Path,
                        help='folder to write to; for json and mcap also a file name with that suffix')
    parser.add_argument('--format', choices=('kitti', 'json', 'mcap'), default='kitti',
                        help='kitti: OUT/<frame>.txt; json: OUT/detections.json; mcap: OUT/detections.mcap '
                             '(default: kitti)')
    parser.add_argument('--annotated', action='store_true',
                        help='also draw each frame: OUT/annotated/<frame>.jpg')
    parser.add_argument('--images', action='store_true', help='mcap: store the images too, as JPEG')
    parser.add_argument('--score-threshold', type=_unit_interval, metavar='S',
                        help="least score that is written; default: the model's lowest (for average "
                             "precision); pictures and annotations use the model's working threshold unless "
                             'S is given')
    parser.add_argument('--camera', action='append', metavar='NAME',
                        help='camera or image topic of the input; repeat for several; default: all')
    parser.add_argument('--fps', type=_positive, help='frame rate for images without stamps (default: 10)')
    parser.add_argument('--timestamps', type=Path, metavar='FILE',
                        help="stamps of a folder's images, one a line; default: timestamps.txt beside them")
    parser.add_argument('--max-frames', type=int, metavar='N', help='stop after N frames')
    parser.add_argument('--threads', type=int, default=0, metavar='N',
                        help='threads of the model; default 0: one for each core that the process may use')
    parser.add_argument('--provider', default='cpu', choices=tuple(PROVIDERS),
                        help='where the model runs (default: cpu)')
    parser.add_argument('--input-size', default='camera', metavar='SIZE',
                        help="camera (default): the images' aspect at the model's number of pixels, where "
                             'the file allows it; model: the size in the file; WIDTHxHEIGHT')
    parser.add_argument('--overwrite', action='store_true',
                        help='write into a folder that is not empty; an earlier run is replaced')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')


def run(args: argparse.Namespace) -> int:
    """Run the model over the input; 0 unless not a single frame could be processed."""
    if args.images and args.format != 'mcap':
        raise ConfigError('--images applies to --format mcap')
    if args.max_frames is not None and args.max_frames < 1:
        raise ConfigError(f'--max-frames is {args.max_frames}, expected at least 1')
    try:
        options = ExecutionOptions(threads=args.threads, provider=args.provider,
                                   input_size=parse_input_size(args.input_size))
    except ValueError as error:
        raise ConfigError(f'--threads, --provider, --input-size: {error}') from error
    detector = OnnxDetector.named(args.model, options)
    with open_source(args.input, args.camera, args.fps, args.timestamps) as source, _output(args) as output:
        return _detect(args, detector, source, output)


@dataclasses.dataclass(frozen=True)
class Output:
    """
    Where results go.

    :param folder: takes all but a single file; None where there is nothing but that.
    :param file: of json and mcap. :param pictures: where annotated frames go within `folder`; empty: itself.
    """

    folder: OutputFolder | None
    file: Path | None
    pictures: str

    @property
    def target(self) -> Path:
        """What is named as written."""
        return self.file or self.folder.path


def _detect(args, detector: OnnxDetector, source: FrameSource, output: Output) -> int:
    spec = detector.spec
    names = [camera.name for camera in source.cameras]
    folders = folder_names(names, [PICTURES]) if len(names) > 1 else dict.fromkeys(names, '')
    score = spec.thresholds.score_low if args.score_threshold is None else args.score_threshold
    drawn_score = spec.thresholds.score if args.score_threshold is None else args.score_threshold
    if args.format == 'kitti':
        writer: Any = KittiWriter(output.folder, spec, folders)
    elif args.format == 'json':
        writer = JsonWriter(output.file, spec)
    else:
        writer = McapWriter(output.file, spec, drawn_score, args.images, args.overwrite)
    processed, skipped, per_class = 0, [], Counter()
    try:
        for frame in _progress(source, args):
            try:
                image = frame.decode()
            except ImageError as error:
                skipped.append({'camera': frame.camera, 'name': frame.name, 'reason': error.reason,
                                'detail': error.detail})
                continue
            detections = detector.detect(image, score_threshold=score).detections
            writer.add(frame, image, detections)
            if args.annotated:
                place = Path(output.pictures, folders[frame.camera], f'{frame.name}.jpg')
                drawn = draw_detections(image, detections, spec.labels, drawn_score)
                write_whole(output.folder.new(str(place)), encode_jpeg(drawn)[0])
            per_class.update(spec.labels[i] for i in detections.above(drawn_score).class_ids)
            processed += 1
        summary = {
            'command': _COMMAND, 'format': args.format, 'input': str(args.input), 'cameras': names,
            'model': {'name': spec.name, 'file': str(args.model), 'sha256': detector.sha256,
                      'labels': list(spec.labels)},
            'score_threshold': score, 'working_threshold': drawn_score, 'frames_processed': processed,
            'frames_skipped': len(skipped), 'skipped': skipped, 'frames_lost': source.lost,
            'input_problems': source.problems,
            'detections_per_class': {label: per_class[label] for label in spec.labels}}
        writer.close(summary)
    except BaseException:
        writer.abort()
        raise
    if output.pictures:
        document = {**summary, 'folders': folders, 'files': output.folder.files}
        write_whole(output.folder.new(SUMMARY_NAME), json.dumps(document, indent=1) + '\n')
    return _report(summary, source, output.target)


def _report(summary: dict, source: FrameSource, target: Path) -> int:
    """Say what was done and what was not."""
    for problem in source.problems[:_SHOWN_PROBLEMS]:
        print(f'{_COMMAND}: note: {problem}', file=sys.stderr)
    if len(source.problems) > _SHOWN_PROBLEMS:
        more = len(source.problems) - _SHOWN_PROBLEMS
        print(f'{_COMMAND}: note: {more} more lines like these under input_problems', file=sys.stderr)
    skipped = summary['skipped']
    for item in skipped[:_SHOWN_PROBLEMS]:
        print(f'{_COMMAND}: warning: {item["name"]}: {item["reason"]}: {item["detail"]}', file=sys.stderr)
    if skipped:
        total = len(skipped) + summary['frames_processed']
        reasons = Counter(item['reason'] for item in skipped)
        print(f'{_COMMAND}: warning: {len(skipped)} of {total} frames were skipped: '
              f'{", ".join(f"{count} {reason}" for reason, count in reasons.most_common())}', file=sys.stderr)
    if not summary['frames_processed']:
        print(f'{_COMMAND}: error: {summary["input"]}: not a single frame could be processed',
              file=sys.stderr)
        return EXIT_BAD_INPUT
    counts = ', '.join(f'{count} {label}' for label, count in summary['detections_per_class'].items())
    print(f'{summary["frames_processed"]} frames -> {target}; '
          f'at score {summary["working_threshold"]:g}: {counts}')
    return EXIT_OK


def _progress(source: FrameSource, args):
    frames, total = iter(source), source.frame_count
    if args.max_frames is not None:
        # Not islice: it would read one frame too many before it stops.
        frames = (frame for _, frame in zip(range(args.max_frames), frames))
        total = min(total, args.max_frames) if total is not None else args.max_frames
    try:
        from tqdm import tqdm
    except ImportError:
        return frames
    # disable=None: silent unless stderr is a terminal.
    return tqdm(frames, total=total, unit='frame', disable=True if args.quiet else None)


@contextlib.contextmanager
def _output(args) -> Iterator[Output]:
    """
    Take the place that results go to, and make room there.

    :raises ConfigError: there is something already, and `--overwrite` was not given.
    """
    out = args.out
    if args.format != 'kitti' and out.suffix == f'.{args.format}' and not out.is_dir():
        if out.exists() and not args.overwrite:
            raise ConfigError(f'{out}: exists already; give --overwrite or another --out')
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_be_written(out, error) from error
        if not args.annotated:
            yield Output(None, out, '')
            return
        pictures = out.with_name(f'{out.stem}_{PICTURES}')
        with OutputFolder(pictures, _COMMAND, lambda: _pictures_in(pictures)) as folder:
            folder.make_room(args.overwrite)
            yield Output(folder, out, '')
        return
    with OutputFolder(out, _COMMAND, lambda: _earlier_files(out)) as folder:
        folder.make_room(args.overwrite)
        yield Output(folder, None if args.format == 'kitti' else folder.new(f'detections.{args.format}'),
                     PICTURES)


def _pictures_in(folder: Path) -> list[str] | None:
    """Return the pictures beside a single file; their folder has its name from that file."""
    return [str(path.relative_to(folder)) for path in folder.rglob('*.jpg')] or None


def _earlier_files(out: Path) -> list[str] | None:
    """Return what a finished `detect` wrote, None where there is none; ConfigError for another's summary."""
    path = out / SUMMARY_NAME
    if not path.exists():
        return None
    try:
        summary = json.loads(read_text(path))
        if summary['command'] != _COMMAND:
            raise ValueError
        return [*map(str, summary['files']), SUMMARY_NAME]
    except (KdPerceptionError, ValueError, KeyError, TypeError):
        raise ConfigError(f'{path}: is not of an earlier run of this command; choose another --out') from None


def _unit_interval(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f'{text} is out of range, expected 0 < S <= 1')
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 10000:
        raise argparse.ArgumentTypeError(f'{text} is out of range, expected 0 < FPS <= 10000')
    return value
