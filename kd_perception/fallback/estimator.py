# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The learned gate: a linear model on standardised features, stored as plain numbers.

It predicts what the teacher would improve in a frame: with kind `logistic` the probability that it does,
with kind `linear` by how much. It travels in the student's model file as the metadata document `gate`, so
that the estimator can never be paired with a student that it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any, Literal

import numpy as np

from kd_perception.config import from_mapping, to_mapping
from kd_perception.errors import ConfigError, ModelError
from kd_perception.fallback.ambiguity import features_for, FeatureSettings, FeatureVector
from kd_perception.fallback.scores import Ambiguity, PRIOR
from kd_perception.models.spec import ModelSpec

GATE_VERSION = 1
DOCUMENT = 'gate'
# A frame this far from all that was seen in training (in standard deviations) says no more by being farther:
# keeps a garbage frame from buying an unbounded score.
Z_LIMIT = 6.0
_TOP = 3


@dataclasses.dataclass(frozen=True)
class FeatureWeight:
    """
    One term: `weight * clip((transform(value) - mean) / scale, -Z_LIMIT, Z_LIMIT)`.

    :param transform: `identity`, or `log1p` of the value (not below 0).
    """

    name: str
    weight: float
    mean: float = 0.0
    scale: float = 1.0
    transform: Literal['identity', 'log1p'] = 'identity'

    def __post_init__(self):
        """Check ranges."""
        if not self.name:
            raise ValueError('name must not be empty')
        if not self.scale > 0:
            raise ValueError('scale must be positive')


@dataclasses.dataclass(frozen=True)
class Estimator:
    """
    A fitted linear model and what it needs to be used as it was fitted.

    :param kind: `logistic`: score is 1 / (1 + exp(-margin)); `linear`: score is the margin itself, in
        units of the target that it was fitted to.
    :param bias: margin of the average frame.
    :param settings: of the features, as fitted.
    :param share_thresholds: (share, score) pairs, share rising: that share of the frames that it was fitted
        on scores at or above. Turns a budget into a threshold.
    :param trained: how it was fitted, for people: frames, folds, figures.
    """

    kind: Literal['logistic', 'linear']
    bias: float
    features: tuple[FeatureWeight, ...]
    settings: FeatureSettings = FeatureSettings()
    share_thresholds: tuple[tuple[float, float], ...] = ()
    trained: dict[str, Any] = dataclasses.field(default_factory=dict)
    version: int = GATE_VERSION

    def __post_init__(self):
        """Check what fields cannot check alone."""
        if self.version != GATE_VERSION:
            raise ValueError(f'version is {self.version}, this package reads {GATE_VERSION}')
        names = [feature.name for feature in self.features]
        if not names or len(set(names)) != len(names):
            raise ValueError('expected at least one feature, each once')
        shares = [share for share, _ in self.share_thresholds]
        scores = [score for _, score in self.share_thresholds]
        if any(not 0 <= share <= 1 for share in shares) or shares != sorted(set(shares)):
            raise ValueError('share_thresholds: expected rising shares in [0, 1]')
        if scores != sorted(scores, reverse=True):
            raise ValueError('share_thresholds: a greater share needs a threshold that is no higher')
        object.__setattr__(self, '_index', ((), None))

    @functools.cached_property
    def _weight(self) -> np.ndarray:
        return np.array([feature.weight for feature in self.features], dtype=np.float64)

    @functools.cached_property
    def _standards(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Whether the logarithm is taken, mean, scale; each (K,)."""
        return (np.array([feature.transform == 'log1p' for feature in self.features]),
                np.array([feature.mean for feature in self.features], dtype=np.float64),
                np.array([feature.scale for feature in self.features], dtype=np.float64))

    @classmethod
    def from_document(cls, document: Any, labels: Sequence[str], where: str) -> Estimator:
        """
        Read the document `gate`.

        :param labels: of the student; decides which features exist.
        :param where: how messages name the document, for example the file and key.
        :raises ModelError: one line that names the field.
        """
        try:
            estimator = from_mapping(cls, document, where)
        except ConfigError as error:
            raise ModelError(str(error)) from error
        unknown = {f.name for f in estimator.features} - {f.name for f in features_for(labels)}
        if unknown:
            raise ModelError(f'{where}.features: unknown feature {", ".join(sorted(unknown)):.200}')
        return estimator

    @classmethod
    def of_model(cls, spec: ModelSpec, source: str) -> Estimator | None:
        """
        Return the estimator that a student's model file holds, None where it holds none.

        :raises ModelError: it holds one that is malformed.
        """
        return spec.read_document(DOCUMENT, source, cls.from_document)

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values; the inverse of `from_document`."""
        return to_mapping(self)

    def standardised(self, names: Sequence[str], values: np.ndarray) -> np.ndarray:
        """
        Return this model's inputs (..., K), 0 for unknown.

        :param names: F feature names, :param values: (..., F) in that order, NaN for unknown.
        :raises KeyError: a feature of the model is not among them.
        """
        known, index = self.__dict__['_index']
        if known is not names:      # one tuple for all frames of an extractor: looked up once
            position = {name: i for i, name in enumerate(names)}
            index = np.array([position[feature.name] for feature in self.features])
            object.__setattr__(self, '_index', (names, index))
        raw = np.asarray(values, dtype=np.float64)[..., index]
        return standardise(raw, *self._standards)

    def scores(self, names: Sequence[str], values: np.ndarray) -> np.ndarray:
        """Return the scores (N,) of frames (N, F); see `standardised`."""
        return self._link(self.standardised(names, values) @ self._weight + self.bias)

    def explain(self, features: FeatureVector) -> Ambiguity:
        """
        Return the frame's score; the reason is the feature that raises it most above an average frame.

        Contributions are in units of the margin: they and `bias` add up to it. Where no feature raises
        the score the reason is `prior`.
        """
        parts = self.standardised(features.names, features.values) * self._weight
        top = np.argsort(-parts, kind='stable')[:_TOP]
        contributions = tuple((self.features[i].name, float(parts[i])) for i in top)
        reason = contributions[0][0] if contributions[0][1] > 0 else PRIOR
        return Ambiguity(float(self._link(parts.sum() + self.bias)), reason, contributions)

    def threshold_for(self, share: float) -> float:
        """
        Return the score that the given share of frames reaches, interpolated.

        :raises ValueError: the document holds no share_thresholds, or share is not in [0, 1].
        """
        if not self.share_thresholds or not 0 <= share <= 1:
            raise ValueError('expected a share in [0, 1] and an estimator with share_thresholds')
        shares, scores = zip(*self.share_thresholds)
        return float(np.interp(share, shares, scores))

    def _link(self, margin: np.ndarray) -> np.ndarray:
        # tanh form of the logistic function: cannot overflow.
        return 0.5 * (1 + np.tanh(0.5 * margin)) if self.kind == 'logistic' else margin


def standardise(raw: np.ndarray, log: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """
    Transform, standardise and limit features (..., K); unknown (NaN) becomes 0, an ordinary frame's value.

    :param log: (K,) bool: take log1p first. :param mean, scale: (K,) of the transformed values.
    """
    values = np.where(log, np.log1p(np.clip(raw, 0, None)), raw)
    return np.nan_to_num(np.clip((values - mean) / scale, -Z_LIMIT, Z_LIMIT), nan=0.0)
