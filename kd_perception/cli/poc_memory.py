# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a model takes of memory, in a process of its own: `python -m kd_perception.cli.poc_memory`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys

from kd_perception.bags.folders import images_in, read_image_file
from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.errors import KdPerceptionError

IMAGES = 20
_KIB = 1024


def _peak_mib() -> float:
    """Return the peak of this program; getrusage's would begin with that of the process that started it."""
    for line in Path('/proc/self/status').read_text(encoding='utf-8').splitlines():
        name, _, value = line.partition(':')
        if name == 'VmHWM':
            return int(value.split()[0]) / _KIB
    raise OSError('/proc/self/status has no VmHWM')


def main() -> int:
    """
    Print {'process_mib', 'model_mib'}: the peak of a process that detects on 20 images, one thread.

    `model_mib` is the rise by loading and running: beyond interpreter, libraries and one image.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or '').split(':')[0])
    parser.add_argument('--model', required=True)
    parser.add_argument('--images', required=True, type=Path)
    args = parser.parse_args()
    try:
        files = images_in(args.images)[:IMAGES]
        read_image_file(files[0])
        before = _peak_mib()
        detector = OnnxDetector.named(args.model, ExecutionOptions(threads=1))
        for path in files:
            detector.detect(read_image_file(path))
    except (KdPerceptionError, OSError, IndexError) as error:
        print(f'poc_memory: error: {error}', file=sys.stderr)
        return 2
    peak = _peak_mib()
    print(json.dumps({'process_mib': round(peak, 1), 'model_mib': round(peak - before, 1)}))
    return 0


if __name__ == '__main__':
    sys.exit(main())
