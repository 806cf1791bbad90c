# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
`benchmark hybrid`: whether the fallback keeps its promises, under load and under faults.

Student, fallback and teacher run as real processes over DDS; this process plays the cameras and the
consumer, and does harm on purpose where it is asked to. See docs/how-to/hybrid_benchmark.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import contextlib
import json
import os
from pathlib import Path
import re
import signal
import sys
from typing import Any

import numpy as np

from kd_perception.benchmark.hybrid.faults import LEVELS, plan
from kd_perception.benchmark.hybrid.load import IMAGE_DEPTH, Load
from kd_perception.benchmark.hybrid.processes import Nodes
from kd_perception.benchmark.hybrid.report import make_report, markdown, Run
from kd_perception.benchmark.node import describe_machine, publish_report, report_place
from kd_perception.cli.main import EXIT_CHECK_FAILED, EXIT_OK
from kd_perception.demo.run import prepare_environment
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import ConfigError
from kd_perception.fallback.gate import GateSettings
from kd_perception.processes.interrupts import remembered_interrupts
from kd_perception.transport import BUILTIN, PROFILES

MAX_CAMERAS = 16
POOL_BYTES, POOL_IMAGES = 64 * 2**20, 60
# Variables that say so; large-data is what prepare_environment sets where nothing else is said.
TRANSPORTS = {'default': {BUILTIN: 'DEFAULT'}, 'large-data': {}}
STEM = 'hybrid_benchmark'


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
    size = _size(args.image_size)
    for option, value, low, high in (
            ('--minutes', args.minutes, 0.05, 24 * 60), ('--cameras', args.cameras, 1, MAX_CAMERAS),
            ('--rate', args.rate, 0.5, 60), ('--share', args.share, 0, 1),
            ('--deadline-ms', args.deadline_ms, 1, 60000)):
        if not low <= value <= high:
            raise ConfigError(f'{option} {value:g}: expected {low:g} to {high:g}')
    # Bad files are known now, not after a minute in another process.
    models = {role: OnnxDetector.named(getattr(args, role)) for role in ('student', 'teacher')}
    paths = {role: model.path for role, model in models.items()}
    labels = {role: model.spec.labels for role, model in models.items()}
    names = [f'camera{i:02d}' for i in range(args.cameras)]
    images = _images(args.input, size)
    if args.transports:
        for name in PROFILES:
            os.environ.pop(name, None)
        os.environ.pop(BUILTIN, None)
        os.environ.update(TRANSPORTS[args.transports])
    # With LOCALHOST, rmw_fastrtps replaces Fast DDS' default transports by some of its own.
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'SUBNET')
    prepare_environment()
    report: dict[str, Any] = {'machine': describe_machine(), 'settings': {
        **{role: path.name for role, path in paths.items()}, 'cameras': args.cameras, 'rate_hz': args.rate,
        'share': args.share, 'image': f'{size[0]}x{size[1]} bgr8', 'image_depth': IMAGE_DEPTH,
        'input': args.input.name if args.input else 'rendered', 'faults': args.faults, 'seed': args.seed}}
    from kd_perception.benchmark.hybrid.timeline import write_timeline
    with report_place(args.out, STEM) as place:
        recorded = measure(args, names, _parameters(args, names, paths, labels), _pool(images, names[0]),
                           labels['teacher'])
        report.update(make_report(recorded, args.deadline_ms))
        with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
            publish_report(report, markdown(report), place, STEM,
                           lambda path: write_timeline(path, recorded, report))
    if args.json:
        print(json.dumps(report))
    broken = [promise['promise'] for promise in report['promises'] if not promise['kept']]
    if broken:
        print(f'broken: {"; ".join(broken)}', file=sys.stderr)
    return EXIT_CHECK_FAILED if broken else EXIT_OK


def measure(args: argparse.Namespace, names: Sequence[str], parameters: dict[str, dict[str, Any]],
            pool: Sequence[bytearray], teacher_labels: Sequence[str]) -> Run:
    """
    Start the nodes, run the load, stop the nodes.

    :param names: of the cameras. :param parameters: node -> parameters. :param pool: serialised images.
    :raises RosInterfaceError: a node does not start, or the fallback ends.
    """
    import rclpy

    from kd_perception.nodes.shared.runtime import exempt_from_collection

    seconds = 60 * args.minutes
    faults = plan(args.faults, seconds, names, args.seed)
    load = node = None
    with remembered_interrupts(signal.SIGINT, signal.SIGTERM) as interrupted:
        rclpy.init(args=[], signal_handler_options=rclpy.SignalHandlerOptions.NO)
        try:
            node = rclpy.create_node('benchmark')
            nodes = Nodes(parameters, args.out / 'logs')
            try:
                load = Load(node, nodes, names, pool, args.rate, teacher_labels, args.seed,
                            interrupted.is_set)
                for name in parameters:
                    nodes.start(name)
                exempt_from_collection()
                measured_s = load.run(seconds, faults)
            finally:
                nodes.close()
            return Run(load.records, load.begin_ns, measured_s, nodes, faults, load.cameras)
        finally:
            if load is not None:
                load.close()
            if node is not None:
                node.destroy_node()
            rclpy.try_shutdown()


def _parameters(args: argparse.Namespace, names: Sequence[str], paths: dict[str, Path],
                labels: dict[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Return the nodes' parameters: those of hybrid.launch.py, with reliable images."""
    reliable = {'image_reliability': 'reliable'}
    return {
        'student': {'model': str(paths['student'].resolve()), 'cameras': list(names), 'threads': 1,
                    'image_depth': 1, **reliable},
        'fallback': {'student_model': str(paths['student'].resolve()), 'cameras': list(names),
                     'teacher_labels': list(labels['teacher']), 'share': float(args.share),
                     'audit_share': min(GateSettings.audit_share, float(args.share)),
                     'deadline_ms': float(args.deadline_ms), 'seed': args.seed % 2**31, **reliable},
        'teacher': {'model': str(paths['teacher'].resolve()), 'threads': 1,
                    'cameras': [f'{name}/teacher' for name in names], **reliable}}


def _size(text: str) -> tuple[int, int]:
    """Return (width, height) px."""
    found = re.fullmatch(r'(\d{1,4})x(\d{1,4})', text)
    size = tuple(map(int, found.groups())) if found else (0, 0)
    if min(size) < 16:
        raise ConfigError(f'--image-size {text}: expected WIDTHxHEIGHT in px, such as 1242x375')
    return size


def _images(source: Path | None, size: tuple[int, int]) -> list[np.ndarray]:
    """Decode or draw the images beforehand, (H, W, 3) uint8 BGR; no more than fit into the pool."""
    import cv2

    from kd_perception.demo.scene import draw_frame, FPS
    from kd_perception.sources.any_source import open_source
    limit = max(1, min(POOL_IMAGES, POOL_BYTES // (3 * size[0] * size[1])))
    if source is None:
        frames = [draw_frame(i / FPS) for i in range(limit)]
    else:
        frames = []
        with open_source(source, None) as opened:
            for frame in opened:
                frames.append(frame.decode())
                if len(frames) == limit:
                    break
    if not frames:
        raise ConfigError(f'{source}: holds no image')
    return [frame if frame.shape[1::-1] == size else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
            for frame in frames]


def _pool(images: Sequence[np.ndarray], frame_id: str) -> list[bytearray]:
    """Serialise images; stamp and frame_id are written into them when they are sent."""
    from rclpy.serialization import serialize_message
    from std_msgs.msg import Header

    from kd_perception.nodes.shared.conversions import bgr_to_image
    return [bytearray(serialize_message(bgr_to_image(image, Header(frame_id=frame_id))))
            for image in images]
