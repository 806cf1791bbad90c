# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
`benchmark hybrid`: whether the fallback keeps its promises, under load and under faults.

Student, fallback and teacher run as real processes over DDS; this process plays the cameras and the
consumer, and does harm on purpose where it is asked to. See docs/how-to/hybrid_benchmark.md.
"""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import dataclasses
import os
from pathlib import Path
import signal
from typing import Any, TextIO

import numpy as np

from kd_perception.benchmark.hybrid.faults import plan
from kd_perception.benchmark.hybrid.load import IMAGE_DEPTH, Load
from kd_perception.benchmark.hybrid.processes import Nodes
from kd_perception.benchmark.hybrid.report import make_report, markdown, Run
from kd_perception.benchmark.machine import describe_machine
from kd_perception.benchmark.report_files import publish_report, report_place
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


@dataclasses.dataclass(frozen=True)
class HybridLoad:
    """
    The load, and the limits that the fallback is told.

    :param rate_hz: of each camera. :param image_size: (width, height) px.
    :param source: folder of images, video or recording; None: a rendered street.
    :param faults: of `faults.LEVELS`. :param transports: of `TRANSPORTS`; None: those of the environment.
    """

    minutes: float
    cameras: int
    rate_hz: float
    share: float
    deadline_ms: float
    student: str
    teacher: str
    image_size: tuple[int, int]
    source: Path | None
    faults: str
    seed: int
    transports: str | None

    def __post_init__(self) -> None:
        for option, value, low, high in (
                ('--minutes', self.minutes, 0.05, 24 * 60), ('--cameras', self.cameras, 1, MAX_CAMERAS),
                ('--rate', self.rate_hz, 0.5, 60), ('--share', self.share, 0, 1),
                ('--deadline-ms', self.deadline_ms, 1, 60000)):
            if not low <= value <= high:
                raise ConfigError(f'{option} {value:g}: expected {low:g} to {high:g}')


def benchmark_hybrid(load: HybridLoad, out: Path, tables_to: TextIO) -> dict[str, Any]:
    """
    Measure, print the tables, and store.

    :return: the report; `promises` says which were kept.
    """
    size = load.image_size
    # Bad files are known now, not after a minute in another process.
    models = {role: OnnxDetector.named(getattr(load, role)) for role in ('student', 'teacher')}
    paths = {role: model.path for role, model in models.items()}
    labels = {role: model.spec.labels for role, model in models.items()}
    names = [f'camera{i:02d}' for i in range(load.cameras)]
    images = _images(load.source, size)
    if load.transports:
        for name in PROFILES:
            os.environ.pop(name, None)
        os.environ.pop(BUILTIN, None)
        os.environ.update(TRANSPORTS[load.transports])
    # With LOCALHOST, rmw_fastrtps replaces Fast DDS' default transports by some of its own.
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'SUBNET')
    prepare_environment()
    report: dict[str, Any] = {'machine': describe_machine(), 'settings': {
        **{role: path.name for role, path in paths.items()}, 'cameras': load.cameras, 'rate_hz': load.rate_hz,
        'share': load.share, 'image': f'{size[0]}x{size[1]} bgr8', 'image_depth': IMAGE_DEPTH,
        'input': load.source.name if load.source else 'rendered', 'faults': load.faults, 'seed': load.seed}}
    from kd_perception.benchmark.hybrid.timeline import write_timeline
    with report_place(out, STEM) as place:
        recorded = measure(load, out, names, _parameters(load, names, paths, labels),
                           _pool(images, names[0]), labels['teacher'])
        report.update(make_report(recorded, load.deadline_ms))
        with contextlib.redirect_stdout(tables_to):
            publish_report(report, markdown(report), place, STEM,
                           lambda path: write_timeline(path, recorded, report))
    return report


def measure(chosen: HybridLoad, out: Path, names: Sequence[str], parameters: dict[str, dict[str, Any]],
            pool: Sequence[bytearray], teacher_labels: Sequence[str]) -> Run:
    """
    Start the nodes, run the load, stop the nodes.

    :param names: of the cameras. :param parameters: node -> parameters. :param pool: serialised images.
    :raises RosInterfaceError: a node does not start, or the fallback ends.
    """
    import rclpy

    from kd_perception.nodes.shared.runtime import exempt_from_collection

    seconds = 60 * chosen.minutes
    faults = plan(chosen.faults, seconds, names, chosen.seed)
    load = node = None
    with remembered_interrupts(signal.SIGINT, signal.SIGTERM) as interrupted:
        rclpy.init(args=[], signal_handler_options=rclpy.SignalHandlerOptions.NO)
        try:
            node = rclpy.create_node('benchmark')
            nodes = Nodes(parameters, out / 'logs')
            try:
                load = Load(node, nodes, names, pool, chosen.rate_hz, teacher_labels, chosen.seed,
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


def _parameters(load: HybridLoad, names: Sequence[str], paths: dict[str, Path],
                labels: dict[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Return the nodes' parameters: those of hybrid.launch.py, with reliable images."""
    reliable = {'image_reliability': 'reliable'}
    return {
        'student': {'model': str(paths['student'].resolve()), 'cameras': list(names), 'threads': 1,
                    'image_depth': 1, **reliable},
        'fallback': {'student_model': str(paths['student'].resolve()), 'cameras': list(names),
                     'teacher_labels': list(labels['teacher']), 'share': float(load.share),
                     'audit_share': min(GateSettings.audit_share, float(load.share)),
                     'deadline_ms': float(load.deadline_ms), 'seed': load.seed % 2**31, **reliable},
        'teacher': {'model': str(paths['teacher'].resolve()), 'threads': 1,
                    'cameras': [f'{name}/teacher' for name in names], **reliable}}


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
