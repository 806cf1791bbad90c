# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Whether a model file is sound: digest, metadata, shapes, and that it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.detection.decode import output_shapes
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.detection.output_checks import check_detector
from kd_perception.errors import ModelError
from kd_perception.models.manifest import pinned_sha256


def verify(path: Path, expected_sha256: str | None, documents: Mapping[str, Callable[[Any, str], Any]]
           ) -> Iterator[str]:
    """
    Yield a line for each check that the file has passed.

    :param expected_sha256: None: what the manifest beside the file pins.
    :param documents: what is well formed -> reads it from (spec, source); None where there is none.
    :raises ModelError: a check failed.
    """
    expected = expected_sha256 or pinned_sha256(path)
    detector = OnnxDetector.load(path, expected_sha256=expected)
    yield 'sha256 matches' if expected else 'sha256 not pinned anywhere: not checked'
    yield 'loads in onnxruntime; metadata and graph agree'
    for name, read in documents.items():
        if read(detector.spec, str(path)) is not None:
            yield f'{name} is well formed'
    detector.warm_up(1)
    yield (f'runs at {detector.spec.input.width}x{detector.spec.input.height}; '
           f'outputs as declared: {", ".join(output_shapes(detector.spec))}')
    check_detector(detector)
    yield 'outputs are finite; scores and boxes lie where the description has them'
    _check_repeatable(detector)
    yield 'gives repeatable detections'


def _check_repeatable(detector: OnnxDetector) -> None:
    """Run twice on noise (seeded); a model that answers differently cannot be validated."""
    noise = np.random.default_rng(0).integers(0, 256, (*detector.spec.input.hw, 3), dtype=np.uint8)
    first, second = (detector.detect(noise, score_threshold=1e-3).detections for _ in range(2))
    if Counter(first.class_ids.tolist()) != Counter(second.class_ids.tolist()) or not np.allclose(
            first.scores, second.scores, atol=1e-5):
        raise ModelError(f'{detector.path}: two runs on the same image differ')
