# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
`benchmark node`: what detector_node costs beyond its model, measured over DDS between real processes.

*Overhead* of a frame is the time from the arrival of the message in the node to the return of `publish`,
less the time inside the model's session: waiting, decoding, letterbox, decoding of the outputs, NMS,
building and publishing the message. *Staleness* is the age of a result when it is published (node clock
minus the image's stamp), less the same inference: transport, waiting and overhead. Both are measured by the
node itself, frame by frame, and read from its diagnostics; this process plays the cameras and the consumer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
import os
from pathlib import Path
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from typing import Any

from kd_perception.benchmark.machine import describe_machine
from kd_perception.benchmark.node_report import markdown
from kd_perception.benchmark.report_files import publish_report, report_place
from kd_perception.demo.run import Child, prepare_environment
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import RosInterfaceError
from kd_perception.models.manifest import resolve_model
from kd_perception.resources import models_folder

MEASUREMENTS = ('startup', 'overhead', 'age', 'cpu')
IMAGE_HW = (375, 1242)          # a KITTI frame
MODEL_HW = (384, 1280)          # what the shipped teacher takes
OVERHEAD_GOAL_MS = 3.0
AGE_RATE_HZ, AGE_INFERENCE_MS = 30.0, 100.0
CPU_CAMERAS, CPU_RATE_HZ = 4, 10.0
READY_TIMEOUT_S = 60.0
WARM_UP_S, WARM_UP_ROUNDS, WARM_UP_RESULTS = 3.0, 8, 10
STAGES = ('wait', 'decode', 'preprocess', 'inference', 'postprocess', 'publish', 'overhead', 'total', 'age',
          'staleness')


def benchmark_node(model: str | None, threads: int, seconds: float, only: Sequence[str], out: Path | None
                   ) -> dict[str, Any]:
    """
    Measure, print and store.

    :param model: path or name of the manifest; None: the synthetic one. :param only: of `MEASUREMENTS`.
    :return: the report, as `measure`.
    """
    if not 1.0 <= seconds <= 600.0:
        raise RosInterfaceError(f'--seconds {seconds:g}: expected 1 to 600')
    path = resolve_model(model, models_folder()) if model else None
    if path is not None:
        OnnxDetector.load(path)    # a bad file is known now, not after a minute in another process
    # With LOCALHOST, rmw_fastrtps replaces Fast DDS' default transports by some of its own.
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'SUBNET')
    prepare_environment()
    with report_place(out, 'node_benchmark') as place:
        with tempfile.TemporaryDirectory(prefix='kd_perception_benchmark_') as folder:
            report = measure(Path(folder), path, threads, seconds, only)
        publish_report(report, markdown(report), place, 'node_benchmark')
    return report


def measure(folder: Path, model: Path | None, threads: int, seconds: float, only: Sequence[str]) -> dict:
    """
    Run the measurements.

    :param folder: for models and logs.
    :param model: None: the synthetic one.
    :return: the report, ready for JSON; durations in ms.
    """
    from kd_perception.benchmark.rectangle_model import steps_for, write_rectangle_model
    fast = model or write_rectangle_model(folder / 'fast.onnx', MODEL_HW)
    report: dict[str, Any] = {
        'machine': describe_machine(), 'model': model.name if model else 'synthetic rectangles',
        'image': f'{IMAGE_HW[1]}x{IMAGE_HW[0]} bgr8', 'threads': threads, 'seconds': seconds, 'goals': []}
    parameters = {'threads': threads, 'image_reliability': 'best_effort'}
    if 'startup' in only:
        report['startup'] = _startup(folder, fast, parameters)
    if 'overhead' in only:
        load = _Load(folder, 'overhead', {**parameters, 'model': str(fast)}, 1, CPU_RATE_HZ)
        report['overhead'] = load.run(seconds)
        stage = report['overhead']['stages']['overhead']
        _judge(report, f'overhead median <= {OVERHEAD_GOAL_MS:g} ms', stage['p50_ms'], OVERHEAD_GOAL_MS)
    if 'age' in only:
        slow = write_rectangle_model(
            folder / 'slow.onnx', load_steps=steps_for(AGE_INFERENCE_MS, folder))
        load = _Load(folder, 'age', {**parameters, 'model': str(slow)}, 1, AGE_RATE_HZ)
        report['age'] = load.run(seconds)
        stage = report['age']['stages']['staleness']
        period_ms = 1e3 / AGE_RATE_HZ
        _judge(report, f'age at publish, less inference, median <= one period ({period_ms:.1f} ms)',
               stage['p50_ms'], period_ms)
        _judge(report, f'age at publish, less inference, maximum <= one period ({period_ms:.1f} ms)',
               stage['max_ms'], period_ms)
    if 'cpu' in only:
        load = _Load(folder, 'cpu', {**parameters, 'model': str(fast)}, CPU_CAMERAS, CPU_RATE_HZ)
        report['cpu'] = load.run(seconds)
    return report


def _judge(report: dict, goal: str, value: float, limit: float) -> None:
    report['goals'].append({'goal': goal, 'value_ms': value, 'limit_ms': limit, 'met': value <= limit})


class _Load:
    """A detector in its own process, cameras that publish at a rate, and what the node reports about it."""

    def __init__(self, folder: Path, name: str, parameters: dict, cameras: int, rate_hz: float):
        self._folder = folder / name
        self._cameras = [f'camera{i}' for i in range(cameras)]
        self._parameters = {**parameters, 'cameras': self._cameras, 'max_image_age_ms': 0.0}
        self._rate_hz = rate_hz

    def run(self, seconds: float) -> dict:
        """Publish for `seconds` after a warm-up and return rates, stages, latency and CPU."""
        from diagnostic_msgs.msg import DiagnosticArray
        import rclpy
        from sensor_msgs.msg import Image

        from kd_perception.nodes.shared import qos
        from vision_msgs.msg import Detection2DArray
        rclpy.init(args=[])
        node = rclpy.create_node('benchmark')
        child = Child('kd_perception.nodes.detector_node', 'detector', self._parameters, self._folder)
        try:
            reports: list = []
            received: list[tuple[int, int]] = []        # (stamp, arrival) ns
            node.create_subscription(DiagnosticArray, '/diagnostics', reports.append, qos.DIAGNOSTICS)
            for camera in self._cameras:
                node.create_subscription(
                    Detection2DArray, f'{camera}/detections',
                    lambda m: received.append((m.header.stamp.sec * 10**9 + m.header.stamp.nanosec,
                                               time.time_ns())), qos.RESULTS)
            publishers = [
                node.create_publisher(Image, f'{camera}/image_raw', qos.image_input(reliable=False))
                for camera in self._cameras]
            _spin_until(node, lambda: all(p.get_subscription_count() for p in publishers), READY_TIMEOUT_S,
                        child, 'did not subscribe')
            images = _images(len(self._cameras))
            # Until all have found one another, images are lost.
            for _ in range(WARM_UP_ROUNDS):
                received.clear()
                sent = self._publish(node, publishers, images, WARM_UP_S, child)
                if len(received) >= min(sent / 2, WARM_UP_RESULTS):
                    break
            received.clear()
            # Long enough, and the node's window has forgotten the warm-up.
            cpu_before, begin = _cpu_seconds(child.process.pid), time.monotonic()
            sent = self._publish(node, publishers, images, seconds, child)
            cpu_s, elapsed_s = _cpu_seconds(child.process.pid) - cpu_before, time.monotonic() - begin
            count = len(reports)
            _spin_until(node, lambda: len(reports) >= count + 2, READY_TIMEOUT_S, child, 'stopped reporting')
            status = {s.name.rpartition(' ')[2]: {p.key: p.value for p in s.values}
                      for s in reports[-1].status}
        finally:
            child.stop()
            node.destroy_node()
            rclpy.try_shutdown()
        return self._summary(status, received, sent, cpu_s, elapsed_s)

    def _publish(self, node: Any, publishers: list, images: list[bytearray], seconds: float,
                 child: Any) -> int:
        """Publish all cameras at the rate, spread over the period; return how many images went out."""
        from rclpy.executors import SingleThreadedExecutor
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        interval_s = 1 / (self._rate_hz * len(publishers))
        begin, sent = time.monotonic(), 0
        while time.monotonic() - begin < seconds:
            i = sent % len(publishers)
            # The stamp stands behind the four bytes of the encapsulation header.
            struct.pack_into('<iI', images[i], 4, *divmod(time.time_ns(), 10**9))
            publishers[i].publish(bytes(images[i]))
            sent += 1
            while (left_s := begin + sent * interval_s - time.monotonic()) > 0:
                executor.spin_once(timeout_sec=left_s)
            if child.ended:
                raise child.failure('ended while it was measured')
        executor.shutdown()
        return sent

    def _summary(self, status: dict, received: list, sent: int, cpu_s: float, elapsed_s: float) -> dict:
        cameras = [status[camera] for camera in self._cameras]
        latencies_ms = [max(0, arrival - stamp) / 1e6 for stamp, arrival in received]
        if not latencies_ms:
            raise RosInterfaceError(f'no result came back from {len(self._cameras)} camera(s)')
        return {
            'cameras': len(cameras), 'rate_hz': self._rate_hz, 'sent': sent, 'results': len(received),
            'dropped': {key: sum(int(c.get(key, 0)) for c in cameras) for key in sorted(
                {k for c in cameras for k in c if k.startswith('dropped.')})},
            # The worst camera, percentile by percentile.
            'stages': {stage: {f'{p}_ms': max(float(c[f'{stage}.{p}_ms']) for c in cameras)
                               for p in ('p50', 'p95', 'p99', 'max')} for stage in STAGES},
            'stamp_to_consumer': {'p50_ms': _percentile(latencies_ms, 50),
                                  'p99_ms': _percentile(latencies_ms, 99),
                                  'max_ms': round(max(latencies_ms), 3)},
            'cpu_percent_of_one_core': round(100 * cpu_s / elapsed_s, 1),
            'cpu_ms_per_result': round(1e3 * cpu_s / len(received), 3)}


def _startup(folder: Path, model: Path, parameters: dict) -> dict:
    """Time the import, and from the start of the process to its first label_info, sent when it is active."""
    import rclpy

    from kd_perception.nodes.shared import qos
    from vision_msgs.msg import LabelInfo

    def python_ms(code: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, '-c', code], check=True, stdin=subprocess.DEVNULL)
        return (time.perf_counter() - begin) * 1e3

    bare = statistics.median(python_ms('pass') for _ in range(5))
    full = statistics.median(python_ms('import kd_perception.nodes.detector_node') for _ in range(5))
    ready_ms = []
    for i in range(3):
        rclpy.init(args=[])
        node = rclpy.create_node('benchmark')
        labels: list = []
        node.create_subscription(LabelInfo, 'camera0/label_info', labels.append, qos.LATCHED)
        begin = time.perf_counter()
        child = Child('kd_perception.nodes.detector_node', 'detector', {
            **parameters, 'model': str(model), 'cameras': ['camera0']}, folder / f'startup{i}')
        try:
            _spin_until(node, partial(bool, labels), READY_TIMEOUT_S, child, 'did not become active')
            ready_ms.append((time.perf_counter() - begin) * 1e3)
        finally:
            child.stop()
            node.destroy_node()
            rclpy.try_shutdown()
    return {'import_ms': round(full - bare, 1), 'process_to_active_ms': round(statistics.median(ready_ms), 1)}


def _spin_until(node: Any, condition: Callable[[], bool], limit_s: float, child: Any, what: str) -> None:
    import rclpy
    end = time.monotonic() + limit_s
    while not condition():
        if child.ended or time.monotonic() > end:
            raise child.failure(what)
        rclpy.spin_once(node, timeout_sec=0.05)


def _images(count: int) -> list[bytearray]:
    """Serialise images of noise with a rectangle each, so that every frame has a detection."""
    import numpy as np
    from rclpy.serialization import serialize_message
    from std_msgs.msg import Header

    from kd_perception.nodes.shared.conversions import bgr_to_image
    images = []
    for i in range(count):
        grey = np.random.default_rng(i).integers(0, 120, (*IMAGE_HW, 1), dtype=np.uint8)
        image = np.repeat(grey, 3, axis=2)
        image[100:200, 300:500] = (255, 0, 0)
        images.append(bytearray(serialize_message(bgr_to_image(image, Header(frame_id=f'camera{i}')))))
    return images


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process (Linux, proc(5))."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def _percentile(values: Sequence[float], percent: float) -> float:
    import numpy as np
    return round(float(np.percentile(values, percent)), 3)
