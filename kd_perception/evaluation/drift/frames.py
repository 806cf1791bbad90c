# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Frames as a drift monitor sees them: a model runs over images once, and only numbers are kept."""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.bags.reader import is_bag
from kd_perception.drift.fallback_drift import Audit, audit
from kd_perception.drift.quantities import AMBIGUITY, detection_values, scene_values, Values
from kd_perception.errors import EvaluationError, ImageError
from kd_perception.evaluation.hybrid.frames import Detector
from kd_perception.fallback.ambiguity import FeatureExtractor
from kd_perception.fallback.estimator import DOCUMENT as GATE
from kd_perception.fallback.judge import Judge
from kd_perception.images.scene import measure_scene
from kd_perception.models.spec import ModelSpec
from kd_perception.sources.any_source import open_source

NOT_COMPARED = Audit(0, 0, 0, 0)


@dataclass(frozen=True)
class Images:
    """
    Images to run over.

    :ivar path: folder, video or recording. :ivar drive: a folder's images are consecutive frames of one
        camera; those of videos and recordings always are.
    :ivar trained: the model was trained on them, so that its answers are better than elsewhere: only the
        image itself is measured.
    :ivar name: how reports call it.
    """

    path: str
    drive: bool = False
    trained: bool = False
    name: str = ''

    @property
    def follows(self) -> bool:
        """Whether frames follow one another."""
        return self.drive or is_bag(self.path) or Path(self.path).is_file()


@dataclass
class MeasuredFrames:
    """
    F frames.

    :ivar values: quantities of each (`health.drift_quantities`), ambiguities among them; length F.
    :ivar drives: number of each frame's drive; a lone picture has its own; length F.
    :ivar audits: comparison with the teacher, `NOT_COMPARED` where it was not asked; length F.
    :ivar sets: frames by set. :ivar problems: one line for each thing that a reader should know.
    """

    values: list[Values] = field(default_factory=list)
    drives: list[int] = field(default_factory=list)
    audits: list[Audit] = field(default_factory=list)
    sets: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def disagreements(self) -> list[tuple[int, int]]:
        """Return (objects disagreed on, objects seen) of each frame."""
        return [(found.disagreed, found.objects) for found in self.audits]


def scorers_of(spec: ModelSpec) -> list[str]:
    """Return the fallback's scorers whose ambiguity a reference holds: the rules, and the learned gate."""
    return ['signals', *(['learned'] if GATE in spec.documents else [])]


class FrameMeasurer:
    """
    Measures frames with one model, and with its teacher where one is given.

    :param detector: the model; runs down to its low threshold.
    :raises ModelError: the model's gate is malformed.
    """

    def __init__(self, detector: Detector, teacher: Detector | None = None):
        self._detector, self._teacher = detector, teacher
        spec = detector.spec
        self._judges = [(Judge.of_model(spec, spec.name, name), name) for name in scorers_of(spec)]
        self._extractors = [FeatureExtractor(judge.settings, spec.labels) for judge, _ in self._judges]

    def reset(self) -> None:
        """Forget earlier frames: the next one follows none."""
        for extractor in self._extractors:
            extractor.reset()

    def measure(self, image: np.ndarray, stamp_ns: int) -> tuple[Values, Audit]:
        """Return the quantities of an image (H, W, 3) uint8, and the comparison with the teacher."""
        spec = self._detector.spec
        found = self._detector.detect(image, score_threshold=spec.thresholds.score_low).detections
        values: dict[str, Any] = {
            **scene_values(image),
            **detection_values(found, spec.labels, image.shape[:2], spec.thresholds.score)}
        scene = measure_scene(image) if any(judge.wants_scene for judge, _ in self._judges) else None
        for (judge, name), extractor in zip(self._judges, self._extractors):
            features = extractor.extract(
                found, stamp_ns, image.shape[:2], scene if judge.wants_scene else None)
            values[AMBIGUITY + name] = float(judge.scorer.explain(features).score)
        if self._teacher is None:
            return values, NOT_COMPARED
        answer = self._teacher.detect(image).detections
        return values, audit(
            found, spec.labels, spec.thresholds.score, answer, self._teacher.spec.labels)


def measure_images(sources: Sequence[Images], detector: Detector, teacher: Detector | None = None,
                   change: Callable[[np.ndarray], np.ndarray] | None = None,
                   tick: Callable[[], object] = lambda: None) -> MeasuredFrames:
    """
    Measure every image of the sources, in their order.

    :param change: applied to each image first, see `evaluation.corruptions`.
    :param tick: called after each frame, for a progress bar.
    :raises BagError: a source cannot be read. :raises EvaluationError: it holds no image that can be decoded,
        or several cameras. :raises ModelError: a model failed.
    """
    measurer, result, numbers = FrameMeasurer(detector, teacher), MeasuredFrames(), itertools.count()
    for source in sources:
        drive, before = next(numbers), len(result.values)
        measurer.reset()
        for image, stamp_ns in _images(source, result.problems):
            if not source.follows:
                measurer.reset()
                drive = next(numbers)
            image = image if change is None else change(image)
            values, compared = (scene_values(image), NOT_COMPARED) if source.trained else (
                measurer.measure(image, stamp_ns))
            result.values.append(values)
            result.drives.append(drive)
            result.audits.append(compared)
            tick()
        if len(result.values) == before:
            raise EvaluationError(f'{source.path}: holds no image that can be decoded')
        result.sets[source.name or Path(source.path).name] = len(result.values) - before
    return result


def _images(source: Images, problems: list[str]) -> Iterator[Any]:
    """Yield (image, stamp) of what can be decoded."""
    with open_source(source.path) as opened:
        if len(opened.cameras) > 1:
            names = ', '.join(camera.name for camera in opened.cameras)
            raise EvaluationError(f'{source.path}: several cameras ({names}), expected one')
        for frame in opened:
            try:
                image = frame.decode()
            except ImageError as error:
                problems.append(f'{source.path}: {frame.name}: {error}')
                continue
            yield image, frame.stamp_ns


def count_images(sources: Sequence[Images]) -> int | None:
    """Return how many images the sources hold, None where one does not say."""
    counts = []
    for source in sources:
        with open_source(source.path) as opened:
            counts.append(opened.frame_count)
    return None if None in counts else sum(counts)
