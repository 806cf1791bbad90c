# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""How many cores this process may use: those of a cpuset or container, not those of the machine."""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path('/')
# Of cgroups version 2 and 1 (kernel: admin-guide/cgroup-v2 and scheduler/sched-bwc): where they are mounted.
_V2_MOUNT = 'sys/fs/cgroup'
_V1_MOUNTS = ('sys/fs/cgroup/cpu', 'sys/fs/cgroup/cpu,cpuacct')


def thread_count(asked: int) -> int:
    """Return how many threads or processes a setting means; 0 stands for one for each usable core."""
    return asked or usable_cores()


def usable_cores(root: Path = _ROOT) -> int:
    """
    Return the cores that this process may use, at least 1.

    That is its affinity (taskset, cpusets), further limited by the CPU time that its control groups grant.
    A fraction is rounded down: threads beyond the quota are stopped together until its next period.

    :param root: where `/proc` and `/sys` lie, for tests.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):   # systems other than Linux
        cores = os.cpu_count() or 1
    return max(1, min([cores, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> list[float]:
    """Return each CPU quota, in cores, of the process's control groups and of the groups around them."""
    found = []
    for line in _text(root / 'proc/self/cgroup').splitlines():
        number, _, rest = line.partition(':')
        controllers, _, group = rest.partition(':')
        if number == '0' and not controllers:
            for folder in _upwards(root / _V2_MOUNT, group):
                found.append(_quota(_text(folder / 'cpu.max').split()))
        elif 'cpu' in controllers.split(','):
            for folder in (folder for mount in _V1_MOUNTS for folder in _upwards(root / mount, group)):
                found.append(_quota([_text(folder / 'cpu.cfs_quota_us').strip(),
                                     _text(folder / 'cpu.cfs_period_us').strip()]))
    return [quota for quota in found if quota is not None]


def _upwards(mount: Path, group: str) -> list[Path]:
    """Return the folders of a group and of all around it; a container may see the mount alone."""
    names = [name for name in group.split('/') if name and name != '..']
    return [mount.joinpath(*names[:count]) for count in range(len(names) + 1)]


def _quota(words: list[str]) -> float | None:
    """Return a quota out of CPU time and period; None: no limit (`max`, -1), or nothing that can be read."""
    try:
        quota, period = (int(word) for word in words)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8', errors='replace')
    except OSError:
        return ''
