# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""On what a benchmark ran."""

from __future__ import annotations

from importlib import metadata
import os
from pathlib import Path
import platform

from kd_perception.transport import transports_in_use


def describe_machine() -> dict[str, str]:
    """Say on what the figures were measured; they mean nothing without it."""
    cpu = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.exists():
        names = [line.partition(':')[2].strip() for line in info.read_text().splitlines()
                 if line.startswith('model name')]
        cpu = names[0] if names else cpu

    def version(*names: str) -> str:
        for name in names:
            try:
                return metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return 'unknown'
    return {
        'cpu': cpu, 'cores': str(os.cpu_count()), 'system': platform.platform(),
        'python': platform.python_version(), 'ros_distro': os.environ.get('ROS_DISTRO', 'unknown'),
        'rmw': os.environ.get('RMW_IMPLEMENTATION', 'default'),
        'transports': transports_in_use(),
        'onnxruntime': version('onnxruntime', 'onnxruntime-gpu', 'onnxruntime-openvino'),
        'opencv': version('opencv-python-headless', 'opencv-python'), 'numpy': version('numpy'),
        'load_average_at_start': ' '.join(f'{load:.2f}' for load in os.getloadavg())}
