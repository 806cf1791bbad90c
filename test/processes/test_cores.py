# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""0 threads: the cores that the process may use, under an affinity and under a container's quota."""

import os
import subprocess
import sys

import pytest

from kd_perception.processes.cores import thread_count, usable_cores

# The cores of a process that is kept to one, and what its sessions are told.
ON_ONE_CORE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.processes.cores import usable_cores
from kd_perception.resources import models_folder
import onnxruntime

made = []
session = onnxruntime.InferenceSession
onnxruntime.InferenceSession = lambda *args, **named: made.append(session(*args, **named)) or made[-1]
print(usable_cores())
for threads in (0, 3):
    made.clear()
    OnnxDetector.load(models_folder() / 'teacher.onnx', ExecutionOptions(threads=threads))
    print(*{item.get_session_options().intra_op_num_threads for item in made})
"""


def test_a_session_takes_the_cores_of_the_affinity():
    done = subprocess.run([sys.executable, '-c', ON_ONE_CORE], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ['1', '1', '3'], done.stderr


@pytest.mark.parametrize('files, cores', [
    ({}, 8),
    ({'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': '200000 100000\n'}, 2),
    ({'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': '350000 100000\n'}, 3),
    ({'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': '20000 100000\n'}, 1),
    ({'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': '3200000 100000\n'}, 8),
    ({'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': 'max 100000\n'}, 8),
    ({'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': 'damaged'}, 8),
    # The narrowest of a group and those around it.
    ({'proc/self/cgroup': '0::/a.slice/b.service\n', 'sys/fs/cgroup/a.slice/cpu.max': '400000 100000\n',
      'sys/fs/cgroup/a.slice/b.service/cpu.max': 'max 100000\n'}, 4),
    # Version 1, whose group a container sees as the root of the mount.
    ({'proc/self/cgroup': '4:cpu,cpuacct:/docker/0123\n0::/\n',
      'sys/fs/cgroup/cpu/cpu.cfs_quota_us': '250000\n', 'sys/fs/cgroup/cpu/cpu.cfs_period_us': '50000\n'}, 5),
    ({'proc/self/cgroup': '4:cpu:/\n', 'sys/fs/cgroup/cpu/cpu.cfs_quota_us': '-1\n',
      'sys/fs/cgroup/cpu/cpu.cfs_period_us': '100000\n'}, 8),
])
def test_the_quota_of_a_container_counts(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(8)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores
    monkeypatch.setattr('kd_perception.processes.cores.usable_cores', lambda: 5)
    assert (thread_count(0), thread_count(2)) == (5, 2)
