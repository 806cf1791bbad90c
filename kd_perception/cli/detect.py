# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`detect`: run a model on a folder of images, a video or a bag, without ROS."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
import sys
from typing import Any

from kd_perception.cli.shared import add_run_arguments, load_detectors
from kd_perception.detection.onnx_session import PROVIDERS
from kd_perception.errors import ConfigError
from kd_perception.exit_codes import EXIT_BAD_INPUT, EXIT_OK
from kd_perception.labels.detect import COMMAND, detect, output_place, Wanted
from kd_perception.sources.any_source import open_source

HELP = 'Run a model on a folder of images, a video or a recording; write KITTI text, JSON or MCAP.'
EXAMPLES = """\
  kd_perception detect --model teacher --input drive/image_02 --out out
                                                   out/<frame>.txt in KITTI's format
  kd_perception detect --model my.onnx --input clip.mp4 --out out --format json --annotated
  kd_perception detect --model teacher --input bag/ --camera front --out out --format mcap --images
                                                   out/detections.mcap, opens in Foxglove"""

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
    parser.add_argument('--provider', default='cpu', choices=tuple(PROVIDERS),
                        help='where the model runs (default: cpu)')
    parser.add_argument('--input-size', default='camera', metavar='SIZE',
                        help="camera (default): the images' aspect at the model's number of pixels, where "
                             'the file allows it; model: the size in the file; WIDTHxHEIGHT')
    parser.add_argument('--overwrite', action='store_true',
                        help='write into a folder that is not empty; an earlier run is replaced')
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the model over the input; 0 unless not a single frame could be processed."""
    if args.images and args.format != 'mcap':
        raise ConfigError('--images applies to --format mcap')
    if args.max_frames is not None and args.max_frames < 1:
        raise ConfigError(f'--max-frames is {args.max_frames}, expected at least 1')
    detector, = load_detectors(args, args.model)
    wanted = Wanted(args.model, str(args.input), args.format, args.annotated, args.images,
                    args.score_threshold, args.max_frames, args.overwrite, args.quiet)
    with open_source(args.input, args.camera, args.fps, args.timestamps) as source, \
            output_place(args.out, wanted) as output:
        summary = detect(detector, source, output, wanted)
    return _report(summary, output.target)


def _report(summary: dict[str, Any], target: Path) -> int:
    """Say what was done and what was not."""
    for problem in summary['input_problems'][:_SHOWN_PROBLEMS]:
        print(f'{COMMAND}: note: {problem}', file=sys.stderr)
    if len(summary['input_problems']) > _SHOWN_PROBLEMS:
        more = len(summary['input_problems']) - _SHOWN_PROBLEMS
        print(f'{COMMAND}: note: {more} more lines like these under input_problems', file=sys.stderr)
    skipped = summary['skipped']
    for item in skipped[:_SHOWN_PROBLEMS]:
        print(f'{COMMAND}: warning: {item["name"]}: {item["reason"]}: {item["detail"]}', file=sys.stderr)
    if skipped:
        total = len(skipped) + summary['frames_processed']
        reasons = Counter(item['reason'] for item in skipped)
        print(f'{COMMAND}: warning: {len(skipped)} of {total} frames were skipped: '
              f'{", ".join(f"{count} {reason}" for reason, count in reasons.most_common())}', file=sys.stderr)
    if not summary['frames_processed']:
        print(f'{COMMAND}: error: {summary["input"]}: not a single frame could be processed',
              file=sys.stderr)
        return EXIT_BAD_INPUT
    counts = ', '.join(f'{count} {label}' for label, count in summary['detections_per_class'].items())
    print(f'{summary["frames_processed"]} frames -> {target}; '
          f'at score {summary["working_threshold"]:g}: {counts}')
    return EXIT_OK


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
