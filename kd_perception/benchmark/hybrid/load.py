# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The cameras and the consumer of `benchmark hybrid`, in one process, and the run itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import struct
import time
from typing import Any

from tqdm import tqdm

from kd_perception.benchmark.hybrid.faults import Fault, Injector
from kd_perception.benchmark.hybrid.processes import Nodes
from kd_perception.benchmark.hybrid.soak import Seen, Told
from kd_perception.errors import BagError, RosInterfaceError
from kd_perception.messages.wire import CdrReader

READY_TIMEOUT_S = 60.0
SETTLE_TIMEOUT_S = 15.0
WARM_UP_S, WARM_UP_ANSWERS = 3.0, 5
IMAGE_DEPTH, LISTENER_DEPTH = 5, 500
SAMPLE_PERIOD_S = 0.5
# Behind the encapsulation header: stamp, then length and text of frame_id.
_STAMP_PLACE, _FRAME_ID_PLACE = 4, 16


@dataclasses.dataclass
class Records:
    """What arrived of one camera, in the order of arrival, and the fallback's last word about it."""

    published: dict[int, int] = dataclasses.field(default_factory=dict)     # stamp -> wall clock [ns]
    results: list[Seen] = dataclasses.field(default_factory=list)
    verified: list[Seen] = dataclasses.field(default_factory=list)
    told: list[Told] = dataclasses.field(default_factory=list)
    states: list[tuple[int, str, str]] = dataclasses.field(default_factory=list)    # ns, state, message
    values: dict[str, str] = dataclasses.field(default_factory=dict)
    unreadable: int = 0


def read_statuses(raw: bytes) -> tuple[int, list[tuple[str, str, dict[str, str]]]]:
    """
    Read a serialised `diagnostic_msgs/DiagnosticArray`.

    :return: stamp [ns] and (name, message, values) of each status.
    :raises BagError: it is none.
    """
    reader = CdrReader(raw)
    stamp_ns, _ = reader.header()
    statuses = []
    count, = reader.numbers('I', 4)
    for _ in range(min(count, 1000)):
        reader.numbers('B', 1)
        name, message, _ = reader.string(), reader.string(), reader.string()
        pairs, = reader.numbers('I', 4)
        statuses.append((name, message, {
            reader.string(): reader.string() for _ in range(min(pairs, 1000))}))
    return stamp_ns, statuses


class Camera:
    """
    A camera that publishes images out of a pool.

    :param pool: serialised images with a frame_id as long as `name`.
    :param phase_s: when its first image is due, after `start`.
    """

    def __init__(self, name: str, publish: Callable[[bytes], None], pool: Sequence[bytearray], rate_hz: float,
                 phase_s: float):
        self.name, self._publish, self._pool = name, publish, pool
        self._rate_hz, self._phase_s = rate_hz, phase_s
        self.paused, self.factor, self.offset_ns, self.last_stamp_ns = False, 1.0, 0, 0
        self.due_s = self.worst_publish_s = 0.0
        self.skipped = self._number = 0

    def start(self, now_s: float) -> None:
        """Publish from now on."""
        self.due_s = now_s + self._phase_s

    def step(self, now_s: float, published: dict[int, int]) -> None:
        """Publish if it is time, and note the image in `published`."""
        if now_s < self.due_s:
            return
        period_s = 1 / (self._rate_hz * self.factor)
        self.due_s += period_s
        if self.due_s < now_s - period_s:     # this process was held up; a camera does not catch up either
            self.skipped += int((now_s - self.due_s) / period_s)
            self.due_s = now_s
        if self.paused:
            return
        image = self._pool[self._number % len(self._pool)]
        self._number += 1
        wall_ns = time.time_ns()
        stamp_ns = wall_ns + self.offset_ns
        while stamp_ns in published:
            stamp_ns += 1
        struct.pack_into('<iI', image, _STAMP_PLACE, *divmod(stamp_ns, 10**9))
        image[_FRAME_ID_PLACE:_FRAME_ID_PLACE + len(self.name)] = self.name.encode()
        published[stamp_ns], self.last_stamp_ns = wall_ns, stamp_ns
        begin_s = time.monotonic()
        self._publish(bytes(image))
        self.worst_publish_s = max(self.worst_publish_s, time.monotonic() - begin_s)


class Load:
    """
    A node that plays the cameras and the consumer; runs on one thread.

    :param node: of rclpy. :param pool: see `Camera`. :param seed: of the content of garbage.
    :param interrupted: whether to end with KeyboardInterrupt.
    """

    def __init__(self, node: Any, nodes: Nodes, names: Sequence[str], pool: Sequence[bytearray],
                 rate_hz: float, teacher_labels: Sequence[str], seed: int,
                 interrupted: Callable[[], bool] = lambda: False):
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import Image

        from kd_perception.nodes.shared import qos
        from vision_msgs.msg import Detection2DArray
        self._node, self._nodes, self._seed = node, nodes, seed
        self._labels, self._interrupted = tuple(teacher_labels), interrupted
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self.records = {name: Records() for name in names}
        self.reports = self.begin_ns = 0
        deep = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=LISTENER_DEPTH,
                          reliability=ReliabilityPolicy.RELIABLE)
        self._subscriptions = [node.create_subscription(
            DiagnosticArray, '/diagnostics', self._on_report, deep, raw=True)]
        self._images, self._intruders, self.cameras = {}, {}, {}
        for i, name in enumerate(names):
            self._images[name] = node.create_publisher(
                Image, f'{name}/image_raw', qos.image_input(reliable=True, depth=IMAGE_DEPTH))
            self._intruders[name] = node.create_publisher(
                Detection2DArray, f'{name}/teacher/detections', qos.RESULTS)
            self.cameras[name] = Camera(
                name, self._images[name].publish, pool, rate_hz, i / (rate_hz * len(names)))
            for topic, kind, take in (('candidates', Detection2DArray, self._take_seen('results')),
                                      ('verified_detections', Detection2DArray, self._take_seen('verified')),
                                      ('provenance', DiagnosticArray, self._take_told)):
                self._subscriptions.append(node.create_subscription(
                    kind, f'{name}/{topic}', self._listener(name, take), deep, raw=True))

    def run(self, seconds: float, faults: Sequence[Fault]) -> float:
        """
        Wait for the nodes, warm up, publish for `seconds` with the faults, and wait for the last answers.

        :return: the seconds that were measured.
        :raises RosInterfaceError: the nodes do not become ready, or the fallback ended.
        """
        self._wait(self._ready, READY_TIMEOUT_S, 'did not find one another')
        cameras = list(self.cameras.values())
        begin_s = time.monotonic()
        for camera in cameras:
            camera.start(begin_s)
        while time.monotonic() < begin_s + WARM_UP_S or not all(
                len(records.told) >= WARM_UP_ANSWERS for records in self.records.values()):
            self._step(begin_s + WARM_UP_S)
            if time.monotonic() > begin_s + READY_TIMEOUT_S:
                raise self._nodes.child('fallback').failure('gave no verified messages')
        injector = Injector(faults, self._nodes, self.cameras, self._intrude, self._labels, self._seed)
        self._nodes.begin()
        for camera in cameras:
            camera.skipped, camera.worst_publish_s = 0, 0.0
        begin_s, self.begin_ns, next_sample_s = time.monotonic(), time.time_ns(), 0.0
        with tqdm(total=round(seconds), unit='s', desc='hybrid') as bar:
            while (now_s := time.monotonic() - begin_s) < seconds:
                injector.step(now_s)
                if now_s >= next_sample_s:
                    self._nodes.sample(now_s)
                    self._nodes.revive()
                    next_sample_s += SAMPLE_PERIOD_S
                    bar.update(int(now_s) - bar.n)
                self._step(begin_s + min(seconds, next_sample_s))
            bar.update(bar.total - bar.n)
        injector.finish(now_s)
        self._nodes.sample(now_s)
        self._settle()
        return now_s

    def _step(self, until_s: float) -> None:
        """Publish what is due and receive until the next image is, at most a little while."""
        for name, camera in self.cameras.items():
            camera.step(time.monotonic(), self.records[name].published)
        due_s = min([until_s, time.monotonic() + 0.05, *(camera.due_s for camera in self.cameras.values())])
        self._spin(max(0.0, due_s - time.monotonic()))

    def _spin(self, timeout_s: float) -> None:
        if self._interrupted():
            raise KeyboardInterrupt
        self._executor.spin_once(timeout_sec=timeout_s)

    def _ready(self) -> bool:
        node = self._node
        return all(
            self._images[name].get_subscription_count() >= 2
            and node.count_subscribers(f'{name}/candidates') >= 2
            and node.count_publishers(f'{name}/verified_detections') >= 1
            and node.count_publishers(f'{name}/provenance') >= 1
            and node.count_publishers(f'{name}/teacher/detections') >= 2
            and node.count_subscribers(f'{name}/teacher/image_raw') >= 1 for name in self.cameras)

    def _settle(self) -> None:
        """Receive until nothing comes any more, and then two reports of the fallback."""
        end_s, quiet_since_s, before = time.monotonic() + SETTLE_TIMEOUT_S, time.monotonic(), -1
        while time.monotonic() < min(end_s, quiet_since_s + 2.0):
            self._spin(0.1)
            count = sum(len(r.results) + len(r.told) + len(r.verified) for r in self.records.values())
            if count != before:
                before, quiet_since_s = count, time.monotonic()
        reports = self.reports
        self._wait(lambda: self.reports >= reports + 2, READY_TIMEOUT_S, 'stopped reporting')

    def _wait(self, condition: Callable[[], bool], limit_s: float, what: str) -> None:
        end_s = time.monotonic() + limit_s
        while not condition():
            for name in ('student', 'fallback', 'teacher'):
                if self.begin_ns == 0 and not self._nodes.running(name):
                    raise self._nodes.child(name).failure('ended at its start')
            if time.monotonic() > end_s:
                raise RosInterfaceError(f'the nodes {what} within {limit_s:g} s')
            self._spin(0.1)

    def _intrude(self, camera: str, raw: bytes) -> None:
        self._intruders[camera].publish(raw)

    def _listener(self, name: str, take: Callable[[Records, bytes, int], None]) -> Callable:
        """Return a callback; the time of arrival is that of the middleware, not of this busy process."""
        records = self.records[name]

        def arrived(raw: bytes, info: dict) -> None:
            try:
                take(records, raw, info.get('received_timestamp') or time.time_ns())
            except (BagError, KeyError, ValueError, IndexError):
                records.unreadable += 1
        return arrived

    @staticmethod
    def _take_seen(kind: str) -> Callable[[Records, bytes, int], None]:
        def take(records: Records, raw: bytes, arrival_ns: int) -> None:
            getattr(records, kind).append(Seen(CdrReader(raw).header()[0], arrival_ns))
        return take

    @staticmethod
    def _take_told(records: Records, raw: bytes, arrival_ns: int) -> None:
        stamp_ns, statuses = read_statuses(raw)
        _, _, values = statuses[0]
        records.told.append(Told(
            stamp_ns, arrival_ns, values['source'], round(float(values['waited_ms']) * 1e6),
            values['deadline_met'] == 'true', values['unverified']))

    def _on_report(self, raw: bytes, info: dict) -> None:
        try:
            _, statuses = read_statuses(raw)
        except BagError:
            return
        now_ns = info.get('received_timestamp') or time.time_ns()
        found = [(name.removeprefix('fallback: camera '), message, values)
                 for name, message, values in statuses if name.startswith('fallback: camera ')]
        self.reports += bool(found)
        for camera, message, values in found:
            if camera in self.records:
                records = self.records[camera]
                records.values = values
                records.states.append((now_ns, values.get('state', 'inactive'), message))

    def close(self) -> None:
        """Give the executor back."""
        self._executor.shutdown(timeout_sec=2)
