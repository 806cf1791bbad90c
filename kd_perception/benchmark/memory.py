# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
What one model costs in a process of its own.

    python -m kd_perception.benchmark.memory MODEL THREADS RUNTIME

prints one JSON object. Memory is the process's largest resident set: a second model beside it, or a second
session, would count too, so each is measured alone.
"""

from __future__ import annotations

import json
from pathlib import Path
import subprocess
import sys
import time

from kd_perception.errors import KdPerceptionError, ModelError

TIMEOUT_S = 120.0


def cost_alone(path: Path, threads: int, runtime: str) -> dict[str, float]:
    """
    Load a model in a fresh process and run it once.

    :return: `create_ms` of the session, `rss_before_mb` of the process without it, `rss_peak_mb` with it.
    :raises ModelError: it cannot be loaded, or not in time.
    """
    command = [sys.executable, '-m', __name__, str(path), str(threads), runtime]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f'{path}: loading it took over {TIMEOUT_S:g} s') from error
    if done.returncode:
        raise ModelError((done.stderr.strip().splitlines() or [f'{path}: cannot be loaded'])[-1])
    return json.loads(done.stdout)


def resident_kib(field: str) -> int:
    """
    Return this process's resident memory: `VmRSS` now, `VmHWM` at its peak.

    Of this program alone: what getrusage tells begins with the process that started it.
    """
    for line in Path('/proc/self/status').read_text(encoding='ascii').splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise ModelError(f'/proc/self/status: has no {field}')


def main() -> int:
    """Measure in this process."""
    from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
    path, threads, runtime = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    try:
        from kd_perception.benchmark.openvino_detector import openvino_detector
        before = resident_kib('VmRSS')
        start = time.perf_counter()
        detector = (openvino_detector(path, threads) if runtime == 'openvino' else
                    OnnxDetector.load(path, ExecutionOptions(threads=threads)))
        create_ms = 1e3 * (time.perf_counter() - start)
        detector.warm_up()
        print(json.dumps({'create_ms': round(create_ms, 1), 'rss_before_mb': round(before * 1024 / 1e6, 1),
                          'rss_peak_mb': round(resident_kib('VmHWM') * 1024 / 1e6, 1)}))
    except KdPerceptionError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
