# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Run replay_node and detector_node as real processes over DDS and record what comes out."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import ctypes
import dataclasses
import json
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import yaml

from kd_perception.errors import RosInterfaceError

READY_TIMEOUT_S = 60.0
# What the replay may take beyond the time that it plays: start, discovery, a slow machine.
REPLAY_MARGIN_S = 60.0
# The detector reports once a second; its last report must have seen the last frame.
SETTLE_TIMEOUT_S = 6.0
STOP_TIMEOUT_S = 8.0
# Raw images fit into one datagram of the default transports only in pieces; these carry them whole.
LARGE_DATA = 'LARGE_DATA?max_msg_size=3MB&sockets_size=3MB'
_LOG_TAIL_LINES = 12
# Loaded here, since between fork and exec of a process with threads nothing may be.
_LIBC = ctypes.CDLL(None)
_INTERRUPTED = threading.Event()


@dataclasses.dataclass(frozen=True)
class DemoRun:
    """
    What a run left behind.

    :param replay: the replay node's report.
    :param detections: camera -> CDR `Detection2DArray` messages in the order of their arrival.
    :param label_info: camera -> CDR `LabelInfo`.
    :param diagnostics: (recorded time at arrival, CDR `DiagnosticArray`).
    :param status: camera -> values of its last diagnostic status.
    """

    replay: dict
    detections: dict[str, list[bytes]]
    label_info: dict[str, bytes]
    diagnostics: list[tuple[int, bytes]]
    status: dict[str, dict[str, str]]


def prepare_environment() -> None:
    """
    Make ROS usable in this process and its children; call it before rclpy is imported.

    :raises RosInterfaceError: ROS 2 or vision_msgs is not installed.
    """
    # Python wheels of ROS do not set these; a sourced install does, and then it keeps its own.
    os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)
    os.environ.setdefault('ROS_DISTRO', 'jazzy')
    # The demo talks to nobody but itself, unless the user has chosen a domain.
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('ROS_DOMAIN_ID', str(random.SystemRandom().randint(1, 101)))
    os.environ.setdefault('FASTDDS_BUILTIN_TRANSPORTS', LARGE_DATA)
    try:
        import rclpy  # noqa: F401
        import vision_msgs.msg  # noqa: F401
    except ImportError as error:
        raise RosInterfaceError(
            f'ROS 2 is not usable in this Python ({error}); source a ROS 2 install, or use `make demo`, that '
            'sets up one of its own') from None


class Child:
    """
    `python -m MODULE --ros-args --params-file FILE` in a process of its own, its output in a log file.

    Parameters travel in a file: on the command line a path such as `2011` would be read as a number.
    """

    def __init__(self, module: str, node: str, parameters: dict[str, Any], folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.name = node
        self.log_path = folder / f'{node}.log'
        params = folder / f'{node}.yaml'
        params.write_text(yaml.safe_dump({f'/{node}': {'ros__parameters': parameters}}), encoding='utf-8')
        package_root = str(Path(__file__).resolve().parents[2])
        environment = {**os.environ, 'PYTHONUNBUFFERED': '1', 'RCUTILS_COLORIZED_OUTPUT': '0',
                       'ROS_LOG_DIR': str(folder.resolve())}
        environment['PYTHONPATH'] = os.pathsep.join(
            filter(None, (package_root, os.environ.get('PYTHONPATH'))))
        with self.log_path.open('wb') as log:
            self.process = subprocess.Popen(
                [sys.executable, '-m', module, '--ros-args', '--params-file', str(params.resolve())],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment,
                start_new_session=True, preexec_fn=_die_with_parent)

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    def failure(self, what: str) -> RosInterfaceError:
        """Return an error that shows the end of the log."""
        lines = self.log_path.read_text(errors='replace').splitlines()[-_LOG_TAIL_LINES:]
        told = next((line for line in reversed(lines) if 'error' in line.lower()), lines[-1] if lines else '')
        return RosInterfaceError(f'{self.name}: {what}: {told.strip()[:300]} (log: {self.log_path})')

    def output(self) -> str:
        """Return what the ended process wrote to stdout."""
        return self.process.stdout.read().decode(errors='replace')

    def stop(self) -> None:
        """End the process, politely at first."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self.ended:
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_S)
        self.process.stdout.close()


def _die_with_parent() -> None:
    """Ask Linux to end the child when this process is killed without a chance to clean up."""
    with contextlib.suppress(AttributeError):
        _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def run(cameras: Sequence[str], detector: dict[str, Any], replay: dict[str, Any], limit_s: float,
        logs: Path) -> DemoRun:
    """
    Start both nodes, play to the end, stop them.

    :param detector, replay: parameters of the nodes.
    :param limit_s: longest time that the playing itself may take; a margin is added.
    :raises RosInterfaceError: a node failed or did not end in time; both are gone by then.
    """
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from vision_msgs.msg import Detection2DArray, LabelInfo

    from kd_perception.nodes.recorder import Recorder
    detections = {camera: f'/{camera}/detections' for camera in cameras}
    labels = {camera: f'/{camera}/label_info' for camera in cameras}
    topics = {**dict.fromkeys(detections.values(), Detection2DArray),
              **dict.fromkeys(labels.values(), LabelInfo), '/diagnostics': DiagnosticArray}
    children: list[Child] = []
    # SIGTERM becomes an exception, so that the children are stopped on that way too. An exception that is
    # raised while a callback from C runs can get lost there: `_wait` asks the flag too.
    _INTERRUPTED.clear()
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    rclpy.init(args=[], signal_handler_options=rclpy.SignalHandlerOptions.NO)
    node = rclpy.create_node('demo')
    try:
        recorder = Recorder(node, topics, latched=tuple(labels.values()))
        detector_node = Child('kd_perception.nodes.detector_node', 'detector', detector, logs)
        children.append(detector_node)
        _wait(node, lambda: all(recorder.of(topic) for topic in labels.values()) and all(
            recorder.publishers(topic) for topic in detections.values()), READY_TIMEOUT_S, children,
            'did not become ready')
        replay_node = Child('kd_perception.nodes.replay_node', 'replay', replay, logs)
        children.append(replay_node)
        _wait(node, lambda: replay_node.ended, limit_s + REPLAY_MARGIN_S, [replay_node, detector_node],
              'did not end')
        report = _report_of(replay_node)
        reports = len(recorder.of('/diagnostics'))
        # One report may have been under way when the last frame was done; the next one has it.
        _wait(node, lambda: len(recorder.of('/diagnostics')) >= reports + 2, SETTLE_TIMEOUT_S, children[:1],
              'stopped reporting')
    finally:
        for child in reversed(children):
            child.stop()
        node.destroy_node()
        rclpy.try_shutdown()
        for number, handler in before.items():
            signal.signal(number, handler)
    arrays = [message.raw for message in recorder.of('/diagnostics')]
    return DemoRun(
        report, {camera: [m.raw for m in recorder.of(topic)] for camera, topic in detections.items()},
        {camera: recorder.of(topic)[-1].raw for camera, topic in labels.items()},
        _stamped(arrays), _last_status(arrays, cameras))


def _interrupt(*_: Any) -> None:
    _INTERRUPTED.set()
    raise KeyboardInterrupt


def _wait(node: Any, condition, timeout_s: float, children: Sequence[Child], what: str) -> None:
    """Spin until the condition holds; a child that ends before is a failure, except the one waited for."""
    import rclpy
    end = time.monotonic() + timeout_s
    while not condition():
        if _INTERRUPTED.is_set():
            raise KeyboardInterrupt
        for child in children:
            if child.ended and not condition():
                raise child.failure(f'ended with exit code {child.process.returncode}')
        if time.monotonic() > end:
            raise children[0].failure(f'{what} within {timeout_s:.0f} s')
        rclpy.spin_once(node, timeout_sec=0.1)


def _report_of(replay_node: Child) -> dict:
    """Return the replay's JSON report; exit code 1 only says that answers were missing."""
    lines = replay_node.output().strip().splitlines()
    if replay_node.process.returncode not in (0, 1) or not lines:
        raise replay_node.failure(f'ended with exit code {replay_node.process.returncode}')
    try:
        return json.loads(lines[-1])
    except ValueError:
        raise replay_node.failure('gave no report') from None


def _stamped(arrays: Sequence[bytes]) -> list[tuple[int, bytes]]:
    from kd_perception.bags.messages import parse_header
    return [(parse_header(raw)[0], raw) for raw in arrays]


def _last_status(arrays: Sequence[bytes], cameras: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the values of each camera's last status."""
    from kd_perception.bags.typestore import deserialize, DIAGNOSTIC_ARRAY
    found: dict[str, dict[str, str]] = {}
    for raw in arrays:
        for status in deserialize(raw, DIAGNOSTIC_ARRAY).status:
            for camera in cameras:
                if status.name == f'detector: camera {camera}':
                    found[camera] = {pair.key: pair.value for pair in status.values}
    return found
