# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Which scorer judges a student's frames, with the features and the threshold that belong to it."""

from __future__ import annotations

import dataclasses

from kd_perception.errors import ConfigError
from kd_perception.fallback.ambiguity import FeatureSettings
from kd_perception.fallback.estimator import Estimator
from kd_perception.fallback.scores import (
    DEFAULT_WEIGHTS,
    PERIODIC,
    PeriodicScorer,
    Scorer,
    SIGNALS,
    SignalScorer,
)
from kd_perception.images.scene import SceneSignals
from kd_perception.models.spec import ModelSpec

SCENE_FEATURES = frozenset(field.name for field in dataclasses.fields(SceneSignals))
SCENE_SIGNALS = frozenset(('dark', 'saturated', 'blurred'))
# Where fixed rules call a frame ambiguous: half an object missed, or one box in doubt (see `scores.SIGNALS`).
SIGNAL_THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True)
class Judge:
    """
    A scorer and what it needs.

    :param name: `learned`, `signals`, or a signal's name.
    :param settings: of the features.
    :param wants_scene: whether the image itself must be measured.
    """

    name: str
    scorer: Scorer
    settings: FeatureSettings
    wants_scene: bool

    @classmethod
    def of_model(cls, spec: ModelSpec, source: str, choice: str = 'auto') -> Judge:
        """
        Return the judge for a student.

        :param choice: `learned` for the estimator in its model file, `signals` for the fixed rules, a
            signal's name for that alone; `periodic`: every frame alike; `auto`:
            `learned` where the file holds one, else `signals`.
        :raises ModelError: the file's estimator is malformed.
        :raises ConfigError: `learned`, and the file holds none; or an unknown choice.
        """
        estimator = Estimator.of_model(spec, source) if choice in ('auto', 'learned') else None
        if estimator is not None:
            used = {feature.name for feature in estimator.features if feature.weight}
            return cls('learned', estimator, estimator.settings, bool(used & SCENE_FEATURES))
        if choice == 'learned':
            raise ConfigError(f'{source}: holds no learned gate; fit one, or choose another scorer')
        if choice not in ('auto', 'signals', PERIODIC, *SIGNALS):
            raise ConfigError(f'scorer {choice!r:.60}: expected auto, learned, signals, periodic or one of '
                              f'{", ".join(SIGNALS)}')
        return cls.of_scorer('signals' if choice == 'auto' else choice,
                             FeatureSettings.of_thresholds(spec.thresholds))

    @classmethod
    def of_scorer(cls, name: str, settings: FeatureSettings) -> Judge:
        """Return the judge with `signals`, `periodic` or one signal, which need no model file."""
        if name == PERIODIC:
            return cls(name, PeriodicScorer(), settings, False)
        weights = DEFAULT_WEIGHTS if name == 'signals' else {name: 1.0}
        return cls(name, SignalScorer(weights), settings, bool(set(weights) & SCENE_SIGNALS))

    @property
    def knows_shares(self) -> bool:
        """Whether the scorer knows which score a share of frames reaches; fixed rules do not."""
        return isinstance(self.scorer, Estimator) and bool(self.scorer.share_thresholds)

    def threshold_for(self, share: float) -> float:
        """Return the score from which frames are ambiguous, as far as the scorer can say (`knows_shares`)."""
        if isinstance(self.scorer, Estimator) and self.knows_shares:
            return self.scorer.threshold_for(min(1.0, max(0.0, share)))
        return SIGNAL_THRESHOLD
