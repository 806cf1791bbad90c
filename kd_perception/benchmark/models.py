# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
`benchmark models`: models against one another on the same images, in turn.

Every round runs each model once on one image, in an order that rotates, so that whatever else the machine
does hits all of them alike; a ratio is taken within a round, and its spread is over the rounds. Times are
those of the detector: letterbox, inference, decoding with NMS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
from functools import partial
from pathlib import Path
import statistics
import tempfile
import time
from typing import Any

import numpy as np
from tqdm import tqdm

from kd_perception.benchmark.accuracy import accuracy, labelled_images
from kd_perception.benchmark.machine import describe_machine
from kd_perception.benchmark.memory import cost_alone
from kd_perception.benchmark.models_report import markdown, plot
from kd_perception.benchmark.report_files import publish_report, report_place
from kd_perception.benchmark.variants import batch_cost, quartiles, write_resized, write_variants
from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.errors import ConfigError
from kd_perception.models.manifest import pinned_sha256, resolve_model
from kd_perception.resources import models_folder
from kd_perception.sources.any_source import open_source

IMAGE_HW = (375, 1242)          # a KITTI frame
WARM_UP = 3
SESSIONS = 3
MAX_IMAGES = 200                # held in memory
STEM = 'models_benchmark'
STAGES = ('preprocess', 'inference', 'postprocess', 'total')
RUNTIMES = ('onnxruntime', 'openvino')
# Linux tells the energy that the processor's package has used, where it may be read.
ENERGY_FILE = Path('/sys/class/powercap/intel-rapl:0/energy_uj')
ENERGY_RUNS = 30


@dataclasses.dataclass(frozen=True)
class Contender:
    """
    One model as it is run.

    :param name: in the report; `path`: of the model file; `runtime`: of `RUNTIMES`, or `ncnn`.
    """

    name: str
    path: Path
    runtime: str
    input_hw: tuple[int, int] | None = None

    def load(self, threads: int) -> OnnxDetector:
        """Load the model anew."""
        if self.runtime == 'ncnn':
            from kd_perception.benchmark.nanodet import nanodet
            return nanodet(self.path, self.input_hw, threads)
        if self.runtime == 'openvino':
            from kd_perception.benchmark.openvino_detector import openvino_detector
            return openvino_detector(self.path, threads, pinned_sha256(self.path))
        return OnnxDetector.load(self.path, ExecutionOptions(threads=threads), pinned_sha256(self.path))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """
    What is compared, and on what.

    :param models: paths or names of the manifest, the reference first.
    :param variants: also the last one with float activations, and its float twin.
    :param sizes: (height, width) px: also the last one at these; `nanodet_sizes`: of `nanodet`, whose
        default is the last one's.
    :param source: folder of images, video or recording; None: noise. :param labels: of these, in KITTI's
        format: measure accuracy too.
    :param threads: numbers of them; `batch`: images at once; `rounds`: images, each for all models.
    """

    models: Sequence[str] = ()
    variants: bool = False
    sizes: Sequence[tuple[int, int]] = ()
    runtimes: Sequence[str] = ('onnxruntime',)
    nanodet: Path | None = None
    nanodet_sizes: Sequence[tuple[int, int]] = ()
    source: Path | None = None
    labels: Path | None = None
    threads: Sequence[int] = (1,)
    batch: Sequence[int] = ()
    rounds: int = 100

    def __post_init__(self) -> None:
        if not 2 <= self.rounds <= 100_000:
            raise ConfigError(f'--rounds {self.rounds}: expected 2 to 100000')
        if self.labels is not None and self.source is None:
            raise ConfigError('--labels: give the images with --input')
        if not all(2 <= batch <= 64 for batch in self.batch):
            raise ConfigError(f'--batch {list(self.batch)}: expected 2 to 64 images at once')


def benchmark_models(chosen: Comparison, out: Path | None) -> None:
    """Measure, print and store."""
    images = _images(chosen.source, chosen.rounds)
    report: dict[str, Any] = {'machine': describe_machine(), 'rounds': chosen.rounds,
                              'images': str(chosen.source) if chosen.source else 'noise',
                              'image_hw': list(images[0].shape[:2]), 'threads': {}}
    with report_place(out, STEM) as place:
        with tempfile.TemporaryDirectory(prefix='kd_benchmark_') as folder:
            field = contenders(chosen.models or ['teacher', 'student'], chosen.variants, chosen.sizes,
                               chosen.runtimes, chosen.nanodet, chosen.nanodet_sizes, Path(folder))
            for threads in chosen.threads:
                report['threads'][str(threads)] = measure(field, images, threads, chosen.rounds)
                if chosen.batch:
                    path = resolve_model((chosen.models or ['student'])[-1], models_folder())
                    found = batch_cost(path, chosen.batch, threads, chosen.rounds)
                    report.setdefault('batch', {})[str(threads)] = found
            if chosen.labels is not None:
                labelled = labelled_images(chosen.source, chosen.labels)
                report['labelled_images'] = len(labelled)
                for number, contender in enumerate(field):
                    found = accuracy(contender.load(1), labelled, contender.name)
                    for entries in report['threads'].values():
                        entries[number]['accuracy'] = found
        publish_report(report, markdown(report), place, STEM, lambda path: plot(report, path))


def parse_size(text: str) -> tuple[int, int]:
    """
    Read 'WIDTHxHEIGHT'; return (height, width) px.

    :raises ConfigError: it is something else.
    """
    parts = text.split('x')
    if len(parts) != 2 or not all(part.isdecimal() and 0 < int(part) <= 8192 for part in parts):
        raise ConfigError(f'--size {text}: expected WIDTHxHEIGHT, such as 1280x384')
    return int(parts[1]), int(parts[0])


def contenders(models: Sequence[str], variants: bool, sizes: Sequence[tuple[int, int]],
               runtimes: Sequence[str], nanodet: Path | None, nanodet_sizes: Sequence[tuple[int, int]],
               folder: Path) -> list[Contender]:
    """
    List what is compared, the reference first.

    :param folder: where files are written that are made for the comparison.
    :raises ModelError: a model is missing, or a variant cannot be made.
    """
    paths = [resolve_model(name, models_folder()) for name in models]
    own = [*(write_variants(paths[-1], folder) if variants else []), paths[-1]]
    resized = [write_resized(path, size, folder) for size in sizes for path in own]
    every = [*paths[:-1], *own, *(path for path in resized if path not in own)]
    field = [Contender(f'{path.stem}{"" if runtime == RUNTIMES[0] else ", OpenVINO"}', path, runtime)
             for runtime in sorted(runtimes, key=RUNTIMES.index) for path in every]
    if nanodet is not None:
        field += [Contender(f'{nanodet.stem}, ncnn', nanodet, 'ncnn', size)
                  for size in nanodet_sizes or [OnnxDetector.load(paths[-1]).spec.input.hw]]
    return field


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


def measure(field: Sequence[Contender], images: Sequence[np.ndarray], threads: int, rounds: int
            ) -> list[dict[str, Any]]:
    """
    Run the models in turn.

    :param field: what is compared, the reference first.
    :param images: (H, W, 3) uint8 BGR, used over and over.
    :return: for each model its facts, quartiles of each stage [ms], and `ratio`: quartiles of its total over
        the reference's in the same round; `inference_ratio` of its inference.
    """
    detectors, created = [], []
    for contender in field:
        times = []
        for _ in range(SESSIONS):
            start = time.perf_counter_ns()
            detector = contender.load(threads)
            times.append((time.perf_counter_ns() - start) / 1e6)
        detector.warm_up(WARM_UP)
        detectors.append(detector)
        created.append(statistics.median(times))
    times_ms = np.zeros((rounds, len(field), len(STAGES)))
    for number in tqdm(range(rounds), desc=f'{threads} thread{"s" * (threads != 1)}', unit='round'):
        image = images[number % len(images)]
        for turn in range(len(field)):
            which = (number + turn) % len(field)
            timings = detectors[which].detect(image).timings
            stages = timings.preprocess_ns, timings.inference_ns, timings.postprocess_ns
            times_ms[number, which] = (*(value / 1e6 for value in stages), sum(stages) / 1e6)
    entries = []
    for which, (contender, detector) in enumerate(zip(field, detectors)):
        alone = {} if contender.runtime == 'ncnn' else cost_alone(contender.path, threads, contender.runtime)
        entries.append({
            'file': contender.path.name, 'name': contender.name, 'runtime': contender.runtime,
            'sha256': detector.sha256, 'bytes': _bytes(contender.path),
            'input_hw': list(detector.input_hw(images[0].shape[:2])), 'provider': detector.provider,
            'load_ms': round(created[which], 1), **alone,
            **{f'{stage}_ms': quartiles(times_ms[:, which, i]) for i, stage in enumerate(STAGES)},
            'least_inference_ms': round(float(times_ms[:, which, 1].min()), 3),
            'ratio': quartiles(times_ms[:, 0, -1] / times_ms[:, which, -1]),
            'inference_ratio': quartiles(times_ms[:, 0, 1] / times_ms[:, which, 1]),
            'energy_mj': energy_mj(partial(detector.detect, images[0]))})
    return entries


def energy_mj(work: Callable[[], Any]) -> float | None:
    """Return the energy of the processor's package for a run, over `ENERGY_RUNS`; None if not told."""
    def read() -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int(ENERGY_FILE.read_text())
        return None
    if read() is None:
        return None
    before = read()
    for _ in range(ENERGY_RUNS):
        work()
    after = read()
    # The counter starts anew now and then.
    return None if before is None or after is None or after < before else round(
        (after - before) / 1e3 / ENERGY_RUNS, 2)


def _bytes(path: Path) -> int:
    weights = path.with_suffix('.bin')
    return path.stat().st_size + (weights.stat().st_size if path.suffix in ('.param', '.xml') else 0)
