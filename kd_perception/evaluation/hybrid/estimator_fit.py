# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Fit the learned gate: ridge-penalised logistic or linear regression, with cross-validation by groups.

Frames of one drive resemble one another: a fold holds whole groups (sequences), or the figure that chooses
the penalty would flatter. All randomness comes from the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Literal

import numpy as np

from kd_perception.errors import TrainingError
from kd_perception.evaluation.hybrid.ranking import auroc
from kd_perception.fallback.ambiguity import features_for, FeatureSettings
from kd_perception.fallback.estimator import Estimator, FeatureWeight, standardise

L2_GRID = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 0.75, 1.0)
_NEWTON_STEPS = 50
_TOLERANCE = 1e-9
# On the bias: makes the minimum unique where every target is the same, too small to be seen otherwise.
_BIAS_L2 = 1e-6


@dataclasses.dataclass(frozen=True)
class Fit:
    """
    A fitted estimator and what cross-validation says of it.

    :param l2: the penalty chosen.
    :param losses: mean held-out loss by penalty: log loss in nats (logistic) or squared error (linear).
    :param held_out: (N,) score of each frame by a model that saw none of its group.
    :param auroc: of `held_out` against target > 0.5 (logistic) or > 0 (linear); NaN if those are all alike.
    """

    estimator: Estimator
    l2: float
    losses: dict[float, float]
    held_out: np.ndarray
    auroc: float


def fit_estimator(names: Sequence[str], values: np.ndarray, target: np.ndarray, *, labels: Sequence[str],
                  kind: Literal['logistic', 'linear'] = 'logistic',
                  settings: FeatureSettings = FeatureSettings(),
                  groups: Sequence | None = None, folds: int = 5, seed: int = 0,
                  l2_grid: Sequence[float] = L2_GRID) -> Fit:
    """
    Fit an estimator.

    :param names: F names out of `features_for(labels)`; :param values: (N, F), NaN for unknown.
    :param target: (N,) in [0, 1] (logistic; 1: the teacher improves the frame) or any (linear; the gain).
    :param groups: N keys; frames of one key are held out together. None: each frame by itself.
    :raises TrainingError: shapes or values contradict that, or there are fewer groups than folds.
    """
    values, target = np.asarray(values, dtype=np.float64), np.asarray(target, dtype=np.float64)
    log = _check(names, values, target, labels, kind)
    fold = assign_folds(range(len(target)) if groups is None else groups, folds, seed)
    if len(fold) != len(target):
        raise TrainingError(f'{len(fold)} groups for {len(target)} frames')
    if not l2_grid or min(l2_grid) <= 0:
        raise TrainingError('l2_grid: expected positive penalties')
    held_out = {l2: np.empty(len(target)) for l2 in l2_grid}
    for k in range(folds):
        seen = fold != k
        moments = _moments(values[seen], log)
        inside, outside = standardise(values[seen], log, *moments), standardise(values[~seen], log, *moments)
        for l2 in l2_grid:
            weight, bias = _solve(inside, target[seen], l2, kind)
            held_out[l2][~seen] = outside @ weight + bias
    losses = {float(l2): float(_loss(margin, target, kind).mean()) for l2, margin in held_out.items()}
    # Of equal losses the stronger penalty.
    l2 = min(losses, key=lambda key: (losses[key], -key))
    mean, scale = _moments(values, log)
    x = standardise(values, log, mean, scale)
    weight, bias = _solve(x, target, l2, kind)
    # A feature that never varied has no scale: whatever it does later, it stays without a say.
    weight = np.where(x.any(axis=0), weight, 0.0)
    estimator = Estimator(
        kind=kind, bias=float(bias), settings=settings,
        features=tuple(
            FeatureWeight(name, float(w), float(m), float(s), 'log1p' if is_log else 'identity')
            for name, w, m, s, is_log in zip(names, weight, mean, scale, log)))
    scores = estimator.scores(tuple(names), values)
    out = _sigmoid(held_out[l2]) if kind == 'logistic' else held_out[l2]
    area = auroc(out, target > (0.5 if kind == 'logistic' else 0.0))
    trained = {'frames': len(target), 'groups': len(set(groups)) if groups is not None else len(target),
               'folds': folds, 'seed': seed, 'l2': l2, 'held_out_loss': losses[l2],
               'held_out_auroc': None if np.isnan(area) else area}
    estimator = dataclasses.replace(estimator, share_thresholds=share_thresholds(scores), trained=trained)
    return Fit(estimator, l2, losses, out, area)


def share_thresholds(scores: np.ndarray, shares: Sequence[float] = SHARES) -> tuple[tuple[float, float], ...]:
    """Return (share, score) pairs: that share of the scores (N,) is at or above the score."""
    return tuple((float(share), float(np.quantile(scores, 1 - share))) for share in shares)


def assign_folds(groups: Sequence, folds: int, seed: int) -> np.ndarray:
    """
    Return a fold in 0..folds-1 for each frame (N,), whole groups together, sizes as even as they allow.

    :raises TrainingError: fewer groups than folds, or fewer than two folds.
    """
    groups = list(groups)
    members: dict = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    if not 2 <= folds <= len(members):
        raise TrainingError(f'{folds} folds for {len(members)} groups: expected 2 to as many as groups')
    order = list(members)
    np.random.default_rng(seed).shuffle(order)
    order.sort(key=lambda group: -len(members[group]))      # stable: chance decides among equals
    fold, sizes = np.empty(len(groups), dtype=np.int64), [0] * folds
    for group in order:
        k = sizes.index(min(sizes))
        fold[members[group]] = k
        sizes[k] += len(members[group])
    return fold


def _check(names: Sequence[str], values: np.ndarray, target: np.ndarray, labels: Sequence[str],
           kind: str) -> np.ndarray:
    """Return which features are taken as log1p (F,) bool."""
    if values.ndim != 2 or values.shape != (len(target), len(names)) or target.ndim != 1 or not len(names):
        raise TrainingError(f'features {values.shape} and target {target.shape} disagree: expected '
                            f'(N, {len(names)}) and (N,)')
    if kind not in ('logistic', 'linear'):
        raise TrainingError(f'kind: expected logistic or linear, got {kind!r}')
    if np.isinf(values).any() or not np.isfinite(target).all():
        raise TrainingError('features must not be infinite and targets must be finite')
    if kind == 'logistic' and not ((target >= 0) & (target <= 1)).all():
        raise TrainingError('target: expected values in [0, 1] for a logistic estimator')
    known = {feature.name: feature.transform for feature in features_for(labels)}
    unknown = set(names) - set(known)
    if unknown or len(set(names)) != len(names):
        raise TrainingError(f'features: expected known names, each once; unknown: {sorted(unknown)}')
    return np.array([known[name] == 'log1p' for name in names])


def _moments(values: np.ndarray, log: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (F,) of the transformed, known values; 0 and 1 where nothing varies."""
    values = np.where(log, np.log1p(np.clip(values, 0, None)), values)
    known = ~np.isnan(values)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0).sum(axis=0) / count
    scale = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(axis=0) / count)
    return mean, np.where(scale > 1e-9 * np.maximum(1, np.abs(mean)), scale, 1.0)


def _solve(x: np.ndarray, target: np.ndarray, l2: float, kind: str) -> tuple[np.ndarray, float]:
    """Minimise mean loss + l2/2 |weight|²; return weight (K,) and bias."""
    count, width = x.shape
    design = np.concatenate([x, np.ones((count, 1))], axis=1)
    penalty = np.append(np.full(width, l2), _BIAS_L2)
    if kind == 'linear':
        system = design.T @ design / count + np.diag(penalty)
        solution = np.linalg.solve(system, design.T @ target / count)
        return solution[:-1], float(solution[-1])

    def objective(beta: np.ndarray) -> float:
        return float(_loss(design @ beta, target, 'logistic').mean() + 0.5 * (penalty * beta ** 2).sum())

    beta = np.zeros(width + 1)
    value = objective(beta)
    for _ in range(_NEWTON_STEPS):
        chance = _sigmoid(design @ beta)
        gradient = design.T @ (chance - target) / count + penalty * beta
        if np.abs(gradient).max() < _TOLERANCE:
            break
        hessian = (design.T * (chance * (1 - chance))) @ design / count + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        length = 1.0
        while length > 1e-6 and objective(beta - length * step) > value:
            length /= 2     # a full Newton step may overshoot where the classes separate
        beta = beta - length * step
        value = objective(beta)
    return beta[:-1], float(beta[-1])


def _sigmoid(margin: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * margin))


def _loss(margin: np.ndarray, target: np.ndarray, kind: str) -> np.ndarray:
    """Loss of each frame: log loss in nats, or squared error."""
    return np.logaddexp(0, margin) - target * margin if kind == 'logistic' else (margin - target) ** 2
