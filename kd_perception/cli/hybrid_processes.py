# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The processes of `benchmark hybrid`: started, killed, stopped in their tracks, and what they use."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import ctypes
import dataclasses
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

import psutil
import yaml

from kd_perception.cli.demo_run import Child

MODULES = {'student': 'kd_perception.nodes.detector_node', 'fallback': 'kd_perception.nodes.fallback_node',
           'teacher': 'kd_perception.nodes.detector_node'}
# As hybrid.launch.py: on a small computer the student and the fallback go first.
TEACHER_NICE = 10
BYTES_PER_MB = 1e6
# Loaded here, since between fork and exec of a process with threads nothing may be.
_LIBC = ctypes.CDLL(None)


class NodeProcess(Child):
    """
    A node under a name of its own: two of the three are detectors.

    :param node: the name. :param folder: for parameters and log.
    """

    def __init__(self, node: str, parameters: dict[str, Any], folder: Path):
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.log_path = node, folder / f'{node}.log'
        params = folder / f'{node}.yaml'
        params.write_text(yaml.safe_dump({f'/{node}': {'ros__parameters': parameters}}), encoding='utf-8')
        environment = {**os.environ, 'PYTHONUNBUFFERED': '1', 'RCUTILS_COLORIZED_OUTPUT': '0',
                       'ROS_LOG_DIR': str(folder)}
        package_root = str(Path(__file__).resolve().parents[2])
        environment['PYTHONPATH'] = os.pathsep.join(
            filter(None, (package_root, os.environ.get('PYTHONPATH'))))
        with self.log_path.open('wb') as log:
            self.process = subprocess.Popen(
                [sys.executable, '-m', MODULES[node], '--ros-args', '-r', f'__node:={node}',
                 '--params-file', str(params)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                env=environment, start_new_session=True, preexec_fn=_die_with_parent)


def _die_with_parent() -> None:
    """Ask Linux to end the child when this process is killed without a chance to clean up."""
    with contextlib.suppress(AttributeError):
        _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@dataclasses.dataclass
class Usage:
    """
    What one process used, over all its lives.

    :param lives: [(time since the run's begin [s], RSS [bytes])] of each life.
    :param cpu_s: of all lives since `begin`.
    """

    lives: list[list[tuple[float, int]]] = dataclasses.field(default_factory=list)
    cpu_s: float = 0.0


class Nodes:
    """
    The student, the fallback and the teacher; and this process, whose use is the load's.

    :param parameters: node -> parameters. :param folder: for logs.
    :param clock: wall clock, ns.
    """

    def __init__(self, parameters: dict[str, dict[str, Any]], folder: Path,
                 clock: Callable[[], int] = time.time_ns):
        self._parameters, self._folder, self._clock = parameters, folder, clock
        self._children: dict[str, NodeProcess] = {}
        self._processes: dict[str, psutil.Process] = {'load': psutil.Process()}
        self._seen_cpu_s: dict[str, float] = {}
        self._measured = False
        self.usage = {name: Usage() for name in (*MODULES, 'load')}
        self.births_ns: dict[str, list[int]] = {name: [] for name in MODULES}
        self.deaths_ns: dict[str, list[int]] = {name: [] for name in MODULES}
        self.crashes: list[str] = []

    def start(self, name: str) -> None:
        """Start a process."""
        births = self.births_ns[name]
        births.append(self._clock())
        child = NodeProcess(name, self._parameters[name], self._folder / f'{name}{len(births)}')
        self._children[name] = child
        process = self._processes[name] = psutil.Process(child.process.pid)
        if name == 'teacher':
            with contextlib.suppress(psutil.Error):
                process.nice(TEACHER_NICE)
        self._seen_cpu_s[name] = 0.0
        if self._measured:
            self.usage[name].lives.append([])

    def running(self, name: str) -> bool:
        """Whether a process lives."""
        return name in self._children and not self._children[name].ended

    def child(self, name: str) -> NodeProcess:
        """Return the process that was started last."""
        return self._children[name]

    def kill(self, name: str) -> None:
        """End a process at once, without a chance to say anything."""
        self._account(name)
        self.deaths_ns[name].append(self._clock())
        child = self._children.pop(name)
        child.process.kill()
        child.process.wait()
        child.process.stdout.close()

    def stop_clock(self, name: str) -> None:
        """Take the processor away from a process (SIGSTOP)."""
        os.kill(self._children[name].process.pid, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Give it back (SIGCONT)."""
        if self.running(name):
            os.kill(self._children[name].process.pid, signal.SIGCONT)

    def revive(self) -> None:
        """
        Start again what ended unasked, as a launch file would, and remember that it did.

        :raises RosInterfaceError: it is the fallback: without it there is nothing to measure.
        """
        for name, child in list(self._children.items()):
            if not child.ended:
                continue
            self.crashes.append(f'{name}: exit code {child.process.returncode}')
            if name == 'fallback':
                raise child.failure(f'ended unasked with exit code {child.process.returncode}')
            self.deaths_ns[name].append(self._clock())
            child.stop()
            self.start(name)

    def begin(self) -> None:
        """Count from now on."""
        self._measured = True
        for name in self._processes:
            self._account(name)
            self.usage[name] = Usage([[]])

    def sample(self, now_s: float) -> None:
        """Note what each process uses now."""
        for name, process in self._processes.items():
            if name == 'load' or self.running(name):
                with contextlib.suppress(psutil.Error):
                    self.usage[name].lives[-1].append((now_s, process.memory_info().rss))
                self._account(name)

    def close(self) -> None:
        """End all that still runs."""
        for name, child in self._children.items():
            if not child.ended:
                self.resume(name)
            child.stop()

    def _account(self, name: str) -> None:
        with contextlib.suppress(psutil.Error):
            times = self._processes[name].cpu_times()
            total_s = times.user + times.system
            self.usage[name].cpu_s += total_s - self._seen_cpu_s.get(name, 0.0)
            self._seen_cpu_s[name] = total_s
