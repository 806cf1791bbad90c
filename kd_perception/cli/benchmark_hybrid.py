# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`benchmark hybrid`: whether the fallback keeps its promises, under load and under faults."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import re
import sys

from kd_perception.benchmark.hybrid.benchmark import benchmark_hybrid, HybridLoad, STEM, TRANSPORTS
from kd_perception.benchmark.hybrid.faults import LEVELS
from kd_perception.errors import ConfigError
from kd_perception.exit_codes import EXIT_CHECK_FAILED, EXIT_OK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benchmark hybrid`."""
    add = parser.add_argument
    add('--minutes', type=float, default=5.0, help='duration (default 5)')
    add('--cameras', type=int, default=4, help='number of cameras (default 4)')
    add('--rate', type=float, default=10.0, help='images a second of each camera (default 10)')
    add('--share', type=float, default=0.2, help='greatest share of frames for the teacher (default 0.2)')
    add('--deadline-ms', type=float, default=150.0, help='greatest wait for the teacher (default 150)')
    add('--student', default='student', help='path of an ONNX file, or a name of the manifest')
    add('--teacher', default='teacher', help='likewise')
    add('--image-size', default='1242x375', metavar='WxH', help='px (default 1242x375)')
    add('--input', type=Path, help='folder of images, video or recording; default: a rendered street')
    add('--faults', choices=LEVELS, default='none', help='how many faults are injected (default none)')
    add('--seed', type=int, default=0, help='of the faults (default 0)')
    add('--transports', choices=tuple(TRANSPORTS), help='of Fast DDS; default: those of the environment '
        'if it says any, else large-data, which is config/fastdds.xml')
    add('--out', type=Path, required=True,
        help=f'folder for {STEM}.json, {STEM}.md, {STEM}.png and the logs of the nodes')
    add('--json', action='store_true', help='print the report as JSON, and the tables to stderr')


def run(args: argparse.Namespace) -> int:
    """Measure, print and store; exit code 1 where a promise is broken."""
    load = HybridLoad(args.minutes, args.cameras, args.rate, args.share, args.deadline_ms, args.student,
                      args.teacher, _size(args.image_size), args.input, args.faults, args.seed,
                      args.transports)
    report = benchmark_hybrid(load, args.out, sys.stderr if args.json else sys.stdout)
    if args.json:
        print(json.dumps(report))
    broken = [promise['promise'] for promise in report['promises'] if not promise['kept']]
    if broken:
        print(f'broken: {"; ".join(broken)}', file=sys.stderr)
    return EXIT_CHECK_FAILED if broken else EXIT_OK


def _size(text: str) -> tuple[int, int]:
    """Return (width, height) px."""
    found = re.fullmatch(r'(\d{1,4})x(\d{1,4})', text)
    size = tuple(map(int, found.groups())) if found else (0, 0)
    if min(size) < 16:
        raise ConfigError(f'--image-size {text}: expected WIDTHxHEIGHT in px, such as 1242x375')
    return size
