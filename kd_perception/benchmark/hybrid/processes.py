# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The processes of `benchmark hybrid`: started, killed, stopped in their tracks, and what they use."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import dataclasses
import os
from pathlib import Path
import signal
import time
from typing import Any

import psutil

from kd_perception.demo.plan import DETECTOR, FALLBACK, TEACHER_NICE
from kd_perception.demo.run import Child

MODULES = {'student': DETECTOR, 'fallback': FALLBACK, 'teacher': DETECTOR}
BYTES_PER_MB = 1e6


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
        self._children: dict[str, Child] = {}
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
        child = Child(MODULES[name], name, self._parameters[name], self._folder / f'{name}{len(births)}',
                      TEACHER_NICE if name == 'teacher' else 0)
        self._children[name] = child
        self._processes[name] = psutil.Process(child.process.pid)
        self._seen_cpu_s[name] = 0.0
        if self._measured:
            self.usage[name].lives.append([])

    def running(self, name: str) -> bool:
        """Whether a process lives."""
        return name in self._children and not self._children[name].ended

    def child(self, name: str) -> Child:
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
