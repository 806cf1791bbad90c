# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
What one frame shows of the student's doubt, as a vector of named numbers.

The student's detections are taken down to its low threshold: what it nearly saw says more about a miss
than what it saw. A feature that cannot be known (no image, no earlier frame, no box to measure) is NaN;
scores treat NaN as an ordinary frame's value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
import dataclasses
from typing import Literal, NamedTuple

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.boxes.overlap import box_iou
from kd_perception.images.scene import SceneSignals
from kd_perception.models.spec import ThresholdSpec

# With more classes than this the two features of each class are left out.
MAX_CLASSES_WITH_FEATURES = 32
_EDGE_PX = 2.0
UNKNOWN = float('nan')


class Feature(NamedTuple):
    """One feature: its unit, and how a linear model should take it (`log1p` tames counts)."""

    name: str
    unit: str
    transform: Literal['identity', 'log1p']
    text: str


FEATURES = (
    Feature('empty', '0 or 1', 'identity', 'no box reaches the working threshold'),
    Feature('accepted', 'boxes', 'log1p', 'at or above the working threshold'),
    Feature('candidates', 'boxes', 'log1p', 'at or above the low threshold'),
    Feature('weak_share', 'share', 'identity', 'candidates below the working threshold, of all candidates'),
    Feature('band', 'boxes', 'log1p', 'with a score inside the band around the working threshold'),
    Feature('top_score', 'score', 'identity', 'highest score; 0 without a candidate'),
    Feature('best_rejected', 'score', 'identity', 'highest score below the working threshold; 0 without one'),
    Feature('least_accepted', 'score', 'identity', 'lowest score of those accepted'),
    Feature('rejected_mass', 'boxes', 'log1p', 'sum of the scores below the working threshold: the objects '
                                               'missed, were scores probabilities'),
    Feature('accepted_doubt', 'boxes', 'log1p', 'sum of 1 - score of those accepted: the false alarms, '
                                                'were scores probabilities'),
    Feature('entropy', 'bits', 'log1p', 'sum of the binary entropies of all scores'),
    Feature('class_margin', 'score', 'identity', 'least difference in score between overlapping boxes of '
                                                 'different classes; 1 without such a pair'),
    Feature('crowded', 'boxes', 'log1p', 'candidates that overlap a stronger one'),
    Feature('small', 'boxes', 'log1p', 'candidates of little height'),
    Feature('edge', 'boxes', 'log1p', 'candidates that touch the border of the image'),
    Feature('median_height', 'image heights', 'identity', 'median height of the candidates'),
    Feature('appeared', 'boxes', 'log1p', 'accepted now, unmatched in an earlier frame (mean over those)'),
    Feature('vanished', 'boxes', 'log1p', 'accepted in an earlier frame, unmatched now (mean over those)'),
    Feature('luminance', 'grey levels', 'identity', 'mean'),
    Feature('contrast', 'grey levels', 'identity', 'standard deviation'),
    Feature('dark_share', 'share', 'identity', 'dark pixels'),
    Feature('saturated_share', 'share', 'identity', 'clipped pixels'),
    Feature('sharpness', 'grey levels²', 'log1p', 'variance of the Laplacian'),
)
CLASS_FEATURES = (
    Feature('accepted', 'boxes', 'log1p', 'of this class, at or above the working threshold'),
    Feature('rejected_mass', 'boxes', 'log1p', 'of this class, sum of the scores below it'),
)


def features_for(labels: Sequence[str]) -> tuple[Feature, ...]:
    """Return the features for a model of these labels, in the vector's order; a class's own: `name.label`."""
    if len(labels) > MAX_CLASSES_WITH_FEATURES:
        return FEATURES
    return FEATURES + tuple(
        feature._replace(name=f'{feature.name}.{label}') for feature in CLASS_FEATURES for label in labels)


@dataclasses.dataclass(frozen=True)
class FeatureSettings:
    """
    What the features depend on; an estimator is worth something only with those that it was fitted with.

    :param score_low, score_work: low and working threshold of the student.
    :param band_low, band_high: scores in [band_low, band_high] are in doubt.
    :param conflict_iou: boxes of different classes from this IoU on name one object twice.
    :param crowd_iou: boxes from this IoU on hide one another.
    :param match_iou: a box and one of an earlier frame, of one class, are the same from this IoU on.
    :param small_height: share of the image's height below which a box is small; 0.08 is 30 px of KITTI's 375.
    :param history_frames: earlier frames that this one is compared with; 0: none.
    :param history_age_ns: earlier frames older than this (by stamp) are not compared.
    :param max_boxes: only so many of the highest scores are looked at; bounds time and memory against a
        student gone wild.
    """

    score_low: float = 0.05
    score_work: float = 0.4
    band_low: float = 0.25
    band_high: float = 0.6
    conflict_iou: float = 0.5
    crowd_iou: float = 0.3
    match_iou: float = 0.3
    small_height: float = 0.08
    history_frames: int = 2
    history_age_ns: int = 1_000_000_000
    max_boxes: int = 200

    @classmethod
    def of_thresholds(cls, thresholds: ThresholdSpec) -> FeatureSettings:
        """Return the settings for a detector of these thresholds; the band lies around the working one."""
        work = thresholds.score
        return cls(score_low=thresholds.score_low, score_work=work, band_low=0.6 * work,
                   band_high=min(1.0, 1.5 * work))

    def __post_init__(self):
        """Check ranges."""
        if not 0 < self.score_low <= self.score_work <= 1:
            raise ValueError('expected 0 < score_low <= score_work <= 1')
        if not 0 <= self.band_low <= self.band_high <= 1:
            raise ValueError('expected 0 <= band_low <= band_high <= 1')
        for name in ('conflict_iou', 'crowd_iou', 'match_iou', 'small_height'):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f'{name} must be in (0, 1]')
        if not 0 <= self.history_frames <= 10 or self.history_age_ns < 0:
            raise ValueError('history_frames must be in 0..10, history_age_ns not negative')
        if not 1 <= self.max_boxes <= 1000:
            raise ValueError('max_boxes must be in 1..1000')


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureVector:
    """
    The features of one frame.

    :param names: F names; the same tuple object for all frames of an extractor.
    :param values: (F,) float64 in the units of `FEATURES`, NaN where unknown.
    """

    names: tuple[str, ...]
    values: np.ndarray

    def __getitem__(self, name: str) -> float:
        """Return one feature; KeyError where there is none of that name."""
        try:
            return float(self.values[self.names.index(name)])
        except ValueError:
            raise KeyError(name) from None

    def as_dict(self) -> dict[str, float]:
        """Return all features by name."""
        return dict(zip(self.names, self.values.tolist()))


class _Past(NamedTuple):
    stamp_ns: int
    accepted: Detections


class FeatureExtractor:
    """
    Turns the frames of one camera, in the order in which they arrive, into feature vectors.

    Not thread-safe. Memory: `history_frames` times `max_boxes` boxes.
    """

    def __init__(self, settings: FeatureSettings, labels: Sequence[str]):
        """Start without history."""
        self.settings = settings
        self.labels = tuple(labels)
        self.names = tuple(feature.name for feature in features_for(self.labels))
        self._past: deque[_Past] = deque(maxlen=settings.history_frames)

    def reset(self) -> None:
        """Forget earlier frames."""
        self._past.clear()

    def extract(self, detections: Detections, stamp_ns: int, image_hw: tuple[int, int] | None = None,
                scene: SceneSignals | None = None) -> FeatureVector:
        """
        Return the features of one frame and remember its accepted boxes for the next.

        :param detections: the student's, down to its low threshold or below, px of an image of
            (height, width) `image_hw`.
        :param stamp_ns: of the image; one that is not after the last frame's (a bag looped, a clock
            stepped) starts a new history.
        """
        s = self.settings
        found = detections.above(s.score_low).by_score().select(slice(s.max_boxes))
        scores = np.clip(found.scores.astype(np.float64), 0, 1)
        # Compared in float32 as everywhere else: a score of exactly the threshold must not fall between.
        accepted = found.scores >= s.score_work
        in_band = (found.scores >= s.band_low) & (found.scores <= s.band_high)
        values = _score_features(scores, accepted, in_band)
        values += _overlap_features(found, s)
        values += _size_features(found, image_hw, s)
        values += self._flicker(found.select(accepted), stamp_ns)
        values += [UNKNOWN] * 5 if scene is None else [
            scene.luminance, scene.contrast, scene.dark_share, scene.saturated_share, scene.sharpness]
        if len(self.labels) <= MAX_CLASSES_WITH_FEATURES:
            values += _class_sums(found.class_ids, accepted.astype(np.float64), len(self.labels))
            values += _class_sums(found.class_ids, np.where(accepted, 0, scores), len(self.labels))
        return FeatureVector(self.names, np.array(values, dtype=np.float64))

    def _flicker(self, accepted: Detections, stamp_ns: int) -> list[float]:
        """Return appeared and vanished, and add the frame to the history."""
        if self._past and stamp_ns <= self._past[-1].stamp_ns:
            self._past.clear()
        while self._past and stamp_ns - self._past[0].stamp_ns > self.settings.history_age_ns:
            self._past.popleft()
        appeared, vanished = [], []
        for past in self._past:
            same = box_iou(accepted.boxes_xyxy, past.accepted.boxes_xyxy) >= self.settings.match_iou
            same &= accepted.class_ids[:, None] == past.accepted.class_ids[None, :]
            appeared.append(np.count_nonzero(~same.any(axis=1)))
            vanished.append(np.count_nonzero(~same.any(axis=0)))
        self._past.append(_Past(stamp_ns, accepted))
        return [float(np.mean(appeared)), float(np.mean(vanished))] if appeared else [UNKNOWN, UNKNOWN]


def _score_features(scores: np.ndarray, accepted: np.ndarray, in_band: np.ndarray) -> list[float]:
    """Return `empty` to `entropy`; scores (N,) float64 descending, accepted and in_band (N,) bool."""
    count, taken = len(scores), scores[accepted]
    rejected = scores[~accepted]
    inner = scores[(scores > 0) & (scores < 1)]
    entropy = -(inner * np.log2(inner) + (1 - inner) * np.log2(1 - inner)).sum()
    return [
        float(len(taken) == 0), float(len(taken)), float(count), len(rejected) / count if count else 0.0,
        float(np.count_nonzero(in_band)), float(scores[0]) if count else 0.0,
        float(rejected[0]) if len(rejected) else 0.0,
        float(taken[-1]) if len(taken) else UNKNOWN, float(rejected.sum()), float((1 - taken).sum()),
        float(entropy)]


def _overlap_features(found: Detections, settings: FeatureSettings) -> list[float]:
    """Return `class_margin` and `crowded`; `found` in descending score."""
    if len(found) < 2:
        return [1.0, 0.0]
    # Upper triangle: the row is the stronger box of each pair.
    iou = np.triu(box_iou(found.boxes_xyxy, found.boxes_xyxy), 1)
    crowded = np.count_nonzero((iou >= settings.crowd_iou).any(axis=0))
    # Two classes that are both next to impossible are no conflict: the stronger must reach the band.
    strong = (found.scores >= settings.band_low)[:, None]
    differ = found.class_ids[:, None] != found.class_ids[None, :]
    conflict = (iou >= settings.conflict_iou) & strong & differ
    stronger, weaker = np.nonzero(conflict)
    margin = float((found.scores[stronger] - found.scores[weaker]).min()) if len(stronger) else 1.0
    return [margin, float(crowded)]


def _size_features(found: Detections, image_hw: tuple[int, int] | None,
                   settings: FeatureSettings) -> list[float]:
    """Return `small`, `edge`, `median_height`."""
    if image_hw is None or min(image_hw) <= 0:
        return [UNKNOWN] * 3
    height, width = image_hw
    boxes = found.boxes_xyxy
    heights = (boxes[:, 3] - boxes[:, 1]) / height
    touching = ((boxes[:, :2] <= _EDGE_PX).any(axis=1) | (boxes[:, 2] >= width - _EDGE_PX)
                | (boxes[:, 3] >= height - _EDGE_PX))
    return [float(np.count_nonzero(heights < settings.small_height)), float(np.count_nonzero(touching)),
            float(np.median(heights)) if len(heights) else UNKNOWN]


def _class_sums(class_ids: np.ndarray, amounts: np.ndarray, classes: int) -> list[float]:
    known = (class_ids >= 0) & (class_ids < classes)
    return np.bincount(class_ids[known], weights=amounts[known], minlength=classes).tolist()
