# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a model takes of processor and memory: `python -m kd_perception.poc.footprint`, a process each."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import statistics
import sys
import time

from kd_perception.benchmark.memory import resident_kib
from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.errors import KdPerceptionError
from kd_perception.sources.folders import images_in, read_image_file

IMAGES = 40
_WARM_UP = 3
_KIB = 1024


def main() -> int:
    """
    Print {'process_mib', 'model_mib', 'cpu_ms'} of a process that detects on some images, one thread.

    `process_mib` is its peak, `model_mib` the rise by loading and running: beyond interpreter, libraries and
    one image. `cpu_ms` is the median processor time of a frame: unlike the time on the clock it hardly
    depends on what else the computer does.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or '').split(':')[0])
    parser.add_argument('--model', required=True)
    parser.add_argument('--images', required=True, type=Path)
    args = parser.parse_args()
    try:
        files = images_in(args.images)[:IMAGES]
        read_image_file(files[0])
        before = resident_kib('VmHWM') / _KIB
        detector = OnnxDetector.named(args.model, ExecutionOptions(threads=1))
        detector.warm_up(_WARM_UP)
        times = []
        for path in files:
            image = read_image_file(path)
            started = time.process_time_ns()
            detector.detect(image)
            times.append((time.process_time_ns() - started) / 1e6)
    except (KdPerceptionError, OSError, IndexError) as error:
        print(f'footprint: error: {error}', file=sys.stderr)
        return 2
    peak = resident_kib('VmHWM') / _KIB
    print(json.dumps({'process_mib': round(peak, 1), 'model_mib': round(peak - before, 1),
                      'cpu_ms': round(statistics.median(times), 2)}))
    return 0


if __name__ == '__main__':
    sys.exit(main())
