# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
`benchmark models`: models against one another on the same images, in turn.

Every round runs each model once on one image, in an order that rotates, so that whatever else the machine
does hits all of them alike; a ratio is taken within a round, and its spread is over the rounds. Times are
those of the detector: letterbox, inference, decoding with NMS.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import statistics
import time
from typing import Any

import numpy as np
from tqdm import tqdm

from kd_perception.bags.sources import open_source
from kd_perception.cli.benchmark_node import describe_machine, publish_report
from kd_perception.cli.main import EXIT_OK
from kd_perception.detection.manifest import pinned_sha256, resolve_model
from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.errors import ConfigError
from kd_perception.resources import models_folder

IMAGE_HW = (375, 1242)          # a KITTI frame
WARM_UP = 3
SESSIONS = 3
MAX_IMAGES = 200                # held in memory
STAGES = ('preprocess', 'inference', 'postprocess', 'total')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benchmark models`."""
    parser.add_argument('--model', action='append', metavar='MODEL',
                        help='path of an ONNX file, or a name of the manifest; repeat; the first is what the '
                             'others are compared with (default: teacher, student)')
    parser.add_argument('--input', type=Path,
                        help='folder of images, video or recording; default: noise of '
                             f'{IMAGE_HW[1]}x{IMAGE_HW[0]} px')
    parser.add_argument('--threads', type=int, nargs='+', default=[1], help='threads of a model (default 1)')
    parser.add_argument('--rounds', type=int, default=100, help='images, each for all models (default 100)')
    parser.add_argument('--out', type=Path, help='folder for models_benchmark.json and models_benchmark.md')


def run(args: argparse.Namespace) -> int:
    """Measure, print and store."""
    if not 2 <= args.rounds <= 100_000:
        raise ConfigError(f'--rounds {args.rounds}: expected 2 to 100000')
    paths = [resolve_model(name, models_folder()) for name in args.model or ('teacher', 'student')]
    images = _images(args.input, args.rounds)
    report: dict[str, Any] = {'machine': describe_machine(), 'rounds': args.rounds,
                              'images': str(args.input) if args.input else 'noise',
                              'image_hw': list(images[0].shape[:2]), 'threads': {}}
    for threads in args.threads:
        report['threads'][str(threads)] = measure(paths, images, threads, args.rounds)
    publish_report(report, markdown(report), args.out, 'models_benchmark')
    return EXIT_OK


def _images(source: Path | None, limit: int) -> list[np.ndarray]:
    """Decode the images beforehand: reading them is no part of what is compared."""
    if source is None:
        return [np.random.default_rng(0).integers(0, 256, (*IMAGE_HW, 3), dtype=np.uint8)]
    images: list[np.ndarray] = []
    with open_source(source, None) as frames:
        for frame in frames:
            images.append(frame.decode())
            if len(images) == min(limit, MAX_IMAGES):
                break
    if not images:
        raise ConfigError(f'{source}: holds no image')
    return images


def measure(paths: Sequence[Path], images: Sequence[np.ndarray], threads: int, rounds: int
            ) -> list[dict[str, Any]]:
    """
    Run the models in turn.

    :param paths: model files, the reference first.
    :param images: (H, W, 3) uint8 BGR, used over and over.
    :return: for each model its facts, quartiles of each stage [ms], and `ratio`: quartiles of its total over
        the reference's in the same round.
    """
    options = ExecutionOptions(threads=threads)
    detectors, created = [], []
    for path in paths:
        times = []
        for _ in range(SESSIONS):
            start = time.perf_counter_ns()
            detector = OnnxDetector.load(path, options, pinned_sha256(path))
            times.append((time.perf_counter_ns() - start) / 1e6)
        detector.warm_up(WARM_UP)
        detectors.append(detector)
        created.append(statistics.median(times))
    times_ms = np.zeros((rounds, len(paths), len(STAGES)))
    for number in tqdm(range(rounds), desc=f'{threads} thread{"s" * (threads != 1)}', unit='round'):
        image = images[number % len(images)]
        for turn in range(len(paths)):
            which = (number + turn) % len(paths)
            timings = detectors[which].detect(image).timings
            stages = timings.preprocess_ns, timings.inference_ns, timings.postprocess_ns
            times_ms[number, which] = (*(value / 1e6 for value in stages), sum(stages) / 1e6)
    entries = []
    for which, (path, detector) in enumerate(zip(paths, detectors)):
        entries.append({
            'file': path.name, 'name': detector.spec.name, 'sha256': detector.sha256,
            'bytes': path.stat().st_size, 'input_hw': list(detector.spec.input.hw),
            'provider': detector.provider, 'load_ms': round(created[which], 1),
            **{f'{stage}_ms': _quartiles(times_ms[:, which, i]) for i, stage in enumerate(STAGES)},
            'ratio': _quartiles(times_ms[:, 0, -1] / times_ms[:, which, -1])})
    return entries


def _quartiles(values: np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in np.percentile(values, (25, 50, 75))]


def markdown(report: dict[str, Any]) -> str:
    """Return the report as a table for each number of threads: medians, with quartiles for the ratio."""
    machine = report['machine']
    height, width = report['image_hw']
    lines = [f'{machine["cpu"]}, {machine["cores"]} cores, onnxruntime {machine["onnxruntime"]}; '
             f'{report["rounds"]} rounds on {width}x{height} px; medians in ms, and how many times as fast '
             'as the first (quartiles over the rounds)', '']
    for threads, entries in report['threads'].items():
        lines += [f'{threads} thread{"s" * (threads != "1")}', '',
                  '| model | input | file, bytes | load | inference | total | times as fast |',
                  '|---|---|---|---|---|---|---|']
        for entry in entries:
            low, median, high = entry['ratio']
            lines.append(
                f'| {entry["file"]} | {entry["input_hw"][1]}x{entry["input_hw"][0]} | {entry["bytes"]:,} '
                f'| {entry["load_ms"]:.0f} | {entry["inference_ms"][1]:.1f} | {entry["total_ms"][1]:.1f} '
                f'| {median:.2f} [{low:.2f}, {high:.2f}] |')
        lines.append('')
    return '\n'.join(lines)
