# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Run replay_node and the nodes of a demo as real processes over DDS and record what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import contextlib
import ctypes
import functools
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

from kd_perception.demo.plan import NodeSpec
from kd_perception.demo.wire import DemoRun, Wire
from kd_perception.errors import RosInterfaceError
from kd_perception.processes.ros_environment import require_ros
from kd_perception.transport import image_transport_environment, profiles_file

# Loading a model takes a second; on a computer that is busy with other things, many.
READY_TIMEOUT_S = 180.0
# What the replay may take beyond the time that it plays: start, discovery, a slow machine.
REPLAY_MARGIN_S = 60.0
# The detector reports once a second; its last report must have seen the last frame.
SETTLE_TIMEOUT_S = 6.0
# Beyond the deadline, how long the last verified messages may take to arrive.
VERIFIED_MARGIN_S = 1.0
STOP_TIMEOUT_S = 8.0
_LOG_TAIL_LINES = 12
# Loaded here, since between fork and exec of a process with threads nothing may be.
_LIBC = ctypes.CDLL(None)
_INTERRUPTED = threading.Event()


def prepare_environment() -> None:
    """
    Make ROS usable in this process and its children; call it before rclpy is imported.

    :raises RosInterfaceError: ROS 2 or vision_msgs is not installed.
    """
    # The demo talks to nobody but itself, unless the user has chosen a domain.
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('ROS_DOMAIN_ID', str(random.SystemRandom().randint(1, 101)))
    os.environ.update(image_transport_environment(profiles_file()))
    require_ros('vision_msgs')


class Child:
    """
    `python -m MODULE --ros-args --params-file FILE` in a process of its own, its output in a log file.

    Parameters travel in a file: on the command line a path such as `2011` would be read as a number.

    :param nice: added to its niceness.
    """

    def __init__(self, module: str, node: str, parameters: dict[str, Any], folder: Path, nice: int = 0):
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
                [sys.executable, '-m', module, '--ros-args', '-r', f'__node:={node}', '--params-file',
                 str(params.resolve())],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment,
                start_new_session=True,
                preexec_fn=functools.partial(_before_exec, nice))

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


def _before_exec(nice: int) -> None:
    """Ask Linux to end the child when this process is killed without a chance to clean up."""
    if nice:
        os.nice(nice)
        # A session of its own is an autogroup of its own, inside which alone niceness counts (man 7 sched).
        with contextlib.suppress(OSError):
            Path('/proc/self/autogroup').write_text(str(nice))
    with contextlib.suppress(AttributeError):
        _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def run(cameras: Sequence[str], nodes: Sequence[NodeSpec], replay: dict[str, Any], limit_s: float,
        logs: Path) -> DemoRun:
    """
    Start the nodes, play to the end, stop them.

    :param nodes: detectors, each for cameras of its own; one named `fallback` is for `cameras`.
    :param replay: parameters of the replay node.
    :param limit_s: longest time that the playing itself may take; a margin is added.
    :raises RosInterfaceError: a node failed or did not end in time; all are gone by then.
    """
    import rclpy
    children: list[Child] = []
    # SIGTERM becomes an exception, so that the children are stopped on that way too. An exception that is
    # raised while a callback from C runs can get lost there: `_spin_until` asks the flag too.
    _INTERRUPTED.clear()
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    rclpy.init(args=[], signal_handler_options=rclpy.SignalHandlerOptions.NO)
    node = rclpy.create_node('demo')
    try:
        wire = Wire(node, cameras, nodes)
        for spec in nodes:
            children.append(Child(spec.module, spec.name, spec.parameters, logs, spec.nice))
        ready_by = time.monotonic() + READY_TIMEOUT_S
        for spec, child in zip(nodes, list(children)):
            _wait(node, functools.partial(wire.ready, spec), ready_by - time.monotonic(), children, child,
                  'did not become ready')
        replay_node = Child('kd_perception.nodes.replay_node', 'replay', replay, logs)
        children.append(replay_node)
        _wait(node, lambda: replay_node.ended, limit_s + REPLAY_MARGIN_S, children, replay_node,
              'did not end')
        report = _report_of(replay_node)
        children.remove(replay_node)
        _spin_until(node, wire.all_verified, wire.deadline_s + VERIFIED_MARGIN_S, children)
        reports = len(wire.recorder.of('/diagnostics'))
        # One report of each may have been under way when the last frame was done; the next one has it.
        _wait(node, lambda: len(wire.recorder.of('/diagnostics')) >= reports + 2 * len(nodes),
              SETTLE_TIMEOUT_S, children, children[0], 'stopped reporting')
        _spin_until(node, wire.all_verified, wire.deadline_s + VERIFIED_MARGIN_S, children)
    finally:
        for child in reversed(children):
            child.stop()
        node.destroy_node()
        rclpy.try_shutdown()
        for number, handler in before.items():
            signal.signal(number, handler)
    return wire.result(report)


def _interrupt(*_: Any) -> None:
    _INTERRUPTED.set()
    raise KeyboardInterrupt


def _spin_until(node: Any, condition: Callable[[], bool], timeout_s: float,
                children: Sequence[Child]) -> bool:
    """Spin until the condition holds, and return whether it does; a child that ends before is a failure."""
    import rclpy
    end = time.monotonic() + timeout_s
    while not condition():
        if _INTERRUPTED.is_set():
            raise KeyboardInterrupt
        for child in children:
            if child.ended and not condition():
                raise child.failure(f'ended with exit code {child.process.returncode}')
        if time.monotonic() > end:
            return False
        rclpy.spin_once(node, timeout_sec=0.1)
    return True


def _wait(node: Any, condition: Callable[[], bool], timeout_s: float, children: Sequence[Child],
          awaited: Child, what: str) -> None:
    """Spin until the condition holds; that it does not is the failure of the child that is waited for."""
    if not _spin_until(node, condition, timeout_s, children):
        raise awaited.failure(f'{what} within {max(0.0, timeout_s):.0f} s')


def _report_of(replay_node: Child) -> dict:
    """Return the replay's JSON report; exit code 1 only says that answers were missing."""
    lines = replay_node.output().strip().splitlines()
    if replay_node.process.returncode not in (0, 1) or not lines:
        raise replay_node.failure(f'ended with exit code {replay_node.process.returncode}')
    try:
        return json.loads(lines[-1])
    except ValueError:
        raise replay_node.failure('gave no report') from None
