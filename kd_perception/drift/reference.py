# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The reference statistics of a model: what its frames look like as long as nothing has changed.

They travel in the model file as the metadata document `drift`, so that a monitor can never compare with
another model's. A quantity is kept as a histogram between its own deciles, with what is known of the
correlation between its frames.

The unit of evidence is the **scene**: `scene_frames` consecutive frames, or one picture that stands for so
many. Frames of a scene say nearly the same, frames of two scenes are taken as independent: the variance of
any share is estimated between scenes (the block jackknife; Kuensch, Annals of Statistics 17, 1989), and says
how many independent samples a scene is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from kd_perception.config import from_mapping, to_mapping
from kd_perception.drift.quantities import AMBIGUITY, finite, known_quantities, Values
from kd_perception.errors import ConfigError, ModelError
from kd_perception.fallback.scores import SIGNALS
from kd_perception.models.spec import ModelSpec

DOCUMENT = 'drift'
DRIFT_VERSION = 1
BINS = 10               # between the deciles
MIN_SCENES = 8          # fewer say nothing about how much scenes differ
MAX_QUANTITIES = 64
MAX_SCENE_FRAMES = 10_000
SCORERS = ('learned', 'signals', *SIGNALS)


@dataclasses.dataclass(frozen=True)
class QuantityReference:
    """
    One quantity's histogram.

    :param edges: rising; bin i holds the values above edge i - 1 up to and with edge i.
    :param shares: of the samples, one more than edges; they add up to 1.
    :param per_frame: samples a frame, on average.
    :param scenes: in which it was measured, whether or not they held a sample.
    :param independent: how many independent samples they are worth, all together.
    """

    name: str
    edges: tuple[float, ...]
    shares: tuple[float, ...]
    per_frame: float
    scenes: int
    independent: float

    def __post_init__(self):
        """Check what fields cannot check alone."""
        if not 1 <= len(self.edges) < BINS:
            raise ValueError(f'{self.name:.60}: expected 1 to {BINS - 1} edges')
        if any(low >= high for low, high in zip(self.edges, self.edges[1:])):
            raise ValueError(f'{self.name:.60}: edges must rise')
        if len(self.shares) != len(self.edges) + 1 or min(self.shares) < 0:
            raise ValueError(f'{self.name:.60}: expected one more share than edges, none below 0')
        if abs(sum(self.shares) - 1) > 1e-2:
            raise ValueError(f'{self.name:.60}: shares add up to {sum(self.shares):g}, expected 1')
        if not (self.per_frame > 0 and self.independent > 0 and self.scenes >= MIN_SCENES):
            raise ValueError(f'{self.name:.60}: per_frame and independent must be positive, scenes at least '
                             f'{MIN_SCENES}')


@dataclasses.dataclass(frozen=True)
class DisagreementReference:
    """
    How far student and teacher disagree where nothing has changed.

    :param share: of the objects that either sees; :param scenes: that held any object.
    """

    share: float
    scenes: int

    def __post_init__(self):
        """Check ranges."""
        if not 0 <= self.share <= 1 or self.scenes < MIN_SCENES:
            raise ValueError(f'disagreement: share must be in [0, 1], scenes at least {MIN_SCENES}')


@dataclasses.dataclass(frozen=True)
class DriftReference:
    """
    All of a model's reference statistics.

    :param rate_hz: frame rate that `scene_frames` is meant at.
    :param scene_frames: how long frames resemble one another.
    :param frames, scenes: that it was computed from.
    :param made: from what, for people.
    """

    rate_hz: float
    scene_frames: int
    frames: int
    scenes: int
    quantities: tuple[QuantityReference, ...]
    disagreement: DisagreementReference | None = None
    made: dict[str, Any] = dataclasses.field(default_factory=dict)
    version: int = DRIFT_VERSION

    def __post_init__(self):
        """Check ranges."""
        if self.version != DRIFT_VERSION:
            raise ValueError(f'version is {self.version}, this package reads {DRIFT_VERSION}')
        if not 0 < self.rate_hz <= 1000 or not 1 <= self.scene_frames <= MAX_SCENE_FRAMES:
            raise ValueError(f'rate_hz must be in (0, 1000], scene_frames in 1..{MAX_SCENE_FRAMES}')
        names = [quantity.name for quantity in self.quantities]
        if not 1 <= len(names) <= MAX_QUANTITIES or len(set(names)) != len(names):
            raise ValueError(f'expected 1 to {MAX_QUANTITIES} quantities, each once')

    @classmethod
    def from_document(cls, document: Any, labels: Sequence[str], where: str) -> DriftReference:
        """
        Read the document `drift`.

        :param labels: of the model; decide which quantities there are.
        :param where: how messages name the document.
        :raises ModelError: one line that names the field.
        """
        try:
            reference = from_mapping(cls, document, where)
        except ConfigError as error:
            raise ModelError(str(error)) from error
        unknown = {q.name for q in reference.quantities} - known_quantities(labels, SCORERS)
        if unknown:
            raise ModelError(f'{where}.quantities: unknown {", ".join(sorted(unknown)):.200}')
        return reference

    @classmethod
    def of_model(cls, spec: ModelSpec, source: str) -> DriftReference | None:
        """
        Return the reference that a model file holds, None where it holds none.

        :raises ModelError: it holds one that is malformed.
        """
        return spec.read_document(DOCUMENT, source, cls.from_document)

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values; the inverse of `from_document`."""
        return to_mapping(self)

    def select(self, ambiguity: str = '') -> tuple[QuantityReference, ...]:
        """Return the quantities of a detector, or with a scorer's name that of its ambiguity alone."""
        if ambiguity:
            return tuple(q for q in self.quantities if q.name == AMBIGUITY + ambiguity)
        return tuple(q for q in self.quantities if not q.name.startswith(AMBIGUITY))


def scenes_of(drives: Sequence[int], scene_frames: int) -> list[np.ndarray]:
    """
    Cut frames into scenes: runs of one drive, cut into stretches of about `scene_frames`.

    :param drives: the drive's number of each frame; a lone picture has a number of its own.
    :return: the frames' indices, scene by scene. The stretches of a drive differ by a frame at most.
    """
    numbers = np.asarray(drives)
    bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    scenes = []
    for first, last in zip(bounds, bounds[1:]):
        pieces = max(1, round((last - first) / scene_frames))
        scenes += [part for part in np.array_split(np.arange(first, last), pieces) if len(part)]
    return scenes


def correlation_frames(values: Sequence[float], drives: Sequence[int]) -> int | None:
    """
    Return after how many frames a quantity's autocorrelation falls below 1 / e, as far as drives show it.

    Twice that is the integrated correlation time of a process that forgets exponentially: what a scene should
    at least be. A drive shows no correlation that is longer than itself.

    :param values: one a frame. :param drives: see `scenes_of`; those of fewer than 20 frames say nothing.
    :return: frames, at most half of the longest drive; None: no drive is long enough.
    """
    numbers, series = np.asarray(drives), np.asarray(values, dtype=np.float64)
    parts = [series[numbers == number] for number in np.unique(numbers)]
    parts = [part - part.mean() for part in parts if len(part) >= 20 and part.std() > 0]
    longest = max((len(part) for part in parts), default=0)
    for lag in range(1, longest // 2 + 1):
        able = [part for part in parts if lag <= len(part) // 2]
        products = sum((part[:-lag] * part[lag:]).mean() for part in able)
        if products < sum((part ** 2).mean() for part in able) / np.e:
            return lag
    return longest // 2 or None


def build_reference(frames: Sequence[Values], drives: Sequence[int], scene_frames: int, rate_hz: float,
                    disagreements: Sequence[tuple[int, int]] = (),
                    made: dict[str, Any] | None = None) -> DriftReference:
    """
    Compute the reference of frames; every scene counts the same, however long it is.

    A quantity that is worth fewer than `MIN_SCENES` independent samples, or has one value only, is left out.

    :param frames: quantities by name of each frame; a scene that lacks one says nothing about it.
    :param drives: see `scenes_of`.
    :param disagreements: (objects disagreed on, objects seen) of each frame, (0, 0) where that is not known;
        empty: no teacher was asked.
    :raises ConfigError: too few scenes, or no quantity is left.
    """
    scenes = scenes_of(drives, scene_frames)
    if len(scenes) < MIN_SCENES:
        raise ConfigError(f'{len(frames)} frames in {len(scenes)} scenes, expected at least {MIN_SCENES} '
                          f'scenes (of {scene_frames} consecutive frames, or single pictures)')
    names = dict.fromkeys(name for frame in frames for name in frame)
    quantities = [_quantity(name, [[finite(frames[i][name]) for i in scene] for scene in scenes
                                   if all(name in frames[i] for i in scene)]) for name in names]
    kept = tuple(quantity for quantity in quantities if quantity is not None)
    if not kept:
        raise ConfigError('no quantity differs both between frames and between scenes: nothing to compare')
    try:
        return DriftReference(rate_hz, scene_frames, len(frames), len(scenes), kept,
                              _disagreement(disagreements, scenes), made or {})
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _quantity(name: str, scenes: Sequence[Sequence[np.ndarray]]) -> QuantityReference | None:
    samples = [np.concatenate(frames) for frames in scenes]
    lengths = np.array([len(frames) for frames in scenes])
    if len(scenes) < MIN_SCENES or not any(len(part) for part in samples):
        return None
    values = np.concatenate(samples)
    weights = np.repeat(1 / lengths, [len(part) for part in samples])
    order = np.argsort(values, kind='stable')
    rank = np.cumsum(weights[order]) / weights.sum()
    deciles = values[order][np.searchsorted(rank, np.arange(1, BINS) / BINS - 1e-9)]
    # Rounded first: what is stored is what the shares are of.
    edges = np.unique([float(f'{edge:.3g}') for edge in deciles])
    edges = edges[edges < values.max()]
    if not len(edges):
        return None
    counts = np.array([np.bincount(np.searchsorted(edges, part), minlength=len(edges) + 1)
                       for part in samples]) / lengths[:, None]
    shares = counts.sum(axis=0) / counts.sum()
    below, totals = np.cumsum(counts, axis=1)[:, :-1], counts.sum(axis=1)
    cumulative = np.cumsum(shares)[:-1]
    residuals = (below - cumulative * totals[:, None]) / totals.mean()
    between = (residuals ** 2).sum() / (len(scenes) - 1)
    # Where the estimate says more than there are, it is chance.
    independent = min(len(values),
                      len(scenes) * (cumulative * (1 - cumulative)).sum() / max(between, 1e-9))
    if independent < MIN_SCENES:
        return None
    return QuantityReference(
        name, tuple(edges.tolist()), tuple(round(float(share), 3) for share in shares),
        float(f'{totals.mean():.3g}'), len(scenes), float(f'{independent:.3g}'))


def _disagreement(counts: Sequence[tuple[int, int]], scenes: Sequence[np.ndarray],
                  ) -> DisagreementReference | None:
    if not len(counts):
        return None
    table = np.array(counts, dtype=np.float64)
    means = [table[scene].mean(axis=0) for scene in scenes]
    seen = [mean for mean in means if mean[1] > 0]
    if len(seen) < MIN_SCENES:
        return None
    wrong, objects = np.sum(seen, axis=0)
    return DisagreementReference(round(float(wrong / objects), 4), len(seen))
