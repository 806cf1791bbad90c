# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
From features to one figure of ambiguity and its reason, by fixed rules.

Each signal is a single, hand-made score in [0, 1]: usable without any training, and what a trained
estimator (`fallback.estimator`) has to beat. `SignalScorer` takes the worst of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Protocol

from kd_perception.fallback.ambiguity import FeatureVector

# Reasons where no feature speaks.
CLEAR = 'clear'
PRIOR = 'prior'
# The name, and the reason, of a scorer that takes every frame alike.
PERIODIC = 'periodic'


@dataclasses.dataclass(frozen=True)
class Ambiguity:
    """
    How ambiguous a frame is, and why.

    :param score: higher is more ambiguous; the scale is the scorer's.
    :param reason: the signal or feature that contributes most; a short stable key.
    :param contributions: (name, amount) of the largest contributions, descending, in the scorer's units.
    """

    score: float
    reason: str
    contributions: tuple[tuple[str, float], ...] = ()


class Scorer(Protocol):
    """Whatever judges a frame by its features."""

    def explain(self, features: FeatureVector) -> Ambiguity:
        """Return the frame's ambiguity."""


def _saturating(value: float, half: float) -> float:
    """Map [0, inf) to [0, 1), with 0.5 at `half`; unknown is 0: no reason to worry."""
    return value / (value + half) if value > 0 else 0.0


def _sum_of_known(*values: float) -> float:
    return sum(value for value in values if not math.isnan(value))


def _blurred(features: FeatureVector) -> float:
    sharpness = features['sharpness']
    return 0.0 if math.isnan(sharpness) else 1 - _saturating(sharpness, 20.0)


# One box in doubt gives 0.5 (band, flicker); half an object missed or half a false alarm does (rejected,
# doubt). Of the scene, a third of dark or a tenth of clipped pixels does: headlights alone stay below.
SIGNALS: Mapping[str, Callable[[FeatureVector], float]] = {
    'empty': lambda f: f['empty'],
    'band': lambda f: _saturating(f['band'], 1.0),
    'near_miss': lambda f: f['best_rejected'],
    'rejected': lambda f: _saturating(f['rejected_mass'], 0.5),
    'doubt': lambda f: _saturating(f['accepted_doubt'], 0.5),
    'entropy': lambda f: _saturating(f['entropy'], 2.0),
    'class_margin': lambda f: 1 - f['class_margin'],
    'crowded': lambda f: _saturating(f['crowded'], 2.0),
    'flicker': lambda f: _saturating(_sum_of_known(f['appeared'], f['vanished']), 1.0),
    'dark': lambda f: _saturating(f['dark_share'], 0.33),
    'saturated': lambda f: _saturating(f['saturated_share'], 0.1),
    'blurred': _blurred,
}

# Without training: what a detector says of itself counts in full, and a scene alone, or an empty road,
# stays under the default threshold of 0.5 unless something else is in doubt.
DEFAULT_WEIGHTS: Mapping[str, float] = {
    'band': 1.0, 'rejected': 0.7, 'class_margin': 0.7, 'flicker': 0.8, 'empty': 0.45,
    'dark': 0.7, 'saturated': 0.7, 'blurred': 0.7,
}


class SignalScorer:
    """
    The greatest of the weighted signals is the ambiguity, and that signal the reason.

    :param weights: by signal, in [0, 1]; a signal that is left out does not count. One signal alone with
        weight 1 is that signal's own gate.
    :raises ValueError: unknown signal, weight out of range, or none.
    """

    def __init__(self, weights: Mapping[str, float] = DEFAULT_WEIGHTS):
        unknown = sorted(set(weights) - set(SIGNALS))
        if unknown:
            raise ValueError(f'unknown signals {", ".join(unknown)}; expected {", ".join(SIGNALS)}')
        if not weights or not all(0 <= weight <= 1 for weight in weights.values()):
            raise ValueError('expected at least one weight, each in [0, 1]')
        self.weights = dict(weights)

    def explain(self, features: FeatureVector) -> Ambiguity:
        """Return the greatest weighted signal, in [0, 1]; of equals the one named first."""
        worth = [(name, weight * SIGNALS[name](features)) for name, weight in self.weights.items()]
        worth.sort(key=lambda item: -item[1])
        name, score = worth[0]
        return Ambiguity(score, name if score > 0 else CLEAR, tuple(worth[:3]))


class PeriodicScorer:
    """Every frame alike: the budget alone decides, which spreads it evenly over the frames."""

    def explain(self, features: FeatureVector) -> Ambiguity:
        """Return 1."""
        return Ambiguity(1.0, PERIODIC)
