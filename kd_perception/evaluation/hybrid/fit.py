# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Fit the learned gate on labelled frames that both models have seen: the target, the groups, the figures.

A gate ranks the frames of one stream, so the target is a frame's rank in its own set, and nothing between
sets: that a set's frames all gain more than another's says which set it is, not which frame to send, and a
fit to the raw gains of several sets learns mostly that.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from kd_perception.errors import TrainingError
from kd_perception.evaluation.hybrid.curve import sent_frames
from kd_perception.evaluation.hybrid.estimator_fit import Fit, fit_estimator
from kd_perception.evaluation.hybrid.frames import Answers, PairedFrames
from kd_perception.evaluation.hybrid.gain import frame_gains
from kd_perception.evaluation.hybrid.ranking import auroc
from kd_perception.evaluation.metrics.kitti_eval import (
    ClassProtocol,
    Difficulty,
    KITTI_CLASSES,
    KITTI_DIFFICULTIES,
    KittiEvaluator,
)
from kd_perception.evaluation.metrics.matching import VALID
from kd_perception.fallback.ambiguity import features_for, FeatureSettings

# How many objects, how sure, how many nearly seen: what a few hundred frames can tell, and what carries over
# from one camera to another. Scene and class features fit a set and fail on the next.
FEATURES = ('accepted', 'accepted_doubt', 'rejected_mass', 'entropy', 'band')
# Frames of a drive are held out in blocks, since neighbours look alike.
BLOCK_FRAMES = 20
_LOW_IOU = 0.5
_SHARES = (0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class GateFit:
    """
    A fitted gate and what is known about it.

    :ivar fit: the estimator and its held-out scores.
    :ivar gains: (F,) objects gained by sending each frame; see `object_gains`.
    :ivar skill: {set: how much of its gain the held-out scores collect, random 0, ideal 1}.
    """

    fit: Fit
    gains: np.ndarray
    skill: dict[str, float]


def object_gains(answers: Answers, classes: Sequence[ClassProtocol] = KITTI_CLASSES,
                 difficulty: Difficulty = KITTI_DIFFICULTIES[1]) -> np.ndarray:
    """
    Return the gain of each frame in objects, (F,) float64.

    The gain in AP of each class (`hybrid_gain`) times the number of its objects: one object found without a
    false alarm is about 1, of whatever class, in a set of any size. Mean of the class's own IoU and 0.5.
    """
    lowest = min(_LOW_IOU, *(protocol.min_iou for protocol in classes))
    evaluator = KittiEvaluator(answers.labels, answers.student, lowest)
    gain = np.zeros(len(answers.labels.frames))
    for protocol in classes:
        objects = int((evaluator.truth_state(protocol, difficulty) == VALID).sum())
        for item in (protocol, ClassProtocol(protocol.name, _LOW_IOU, protocol.neighbours)):
            gain += 0.5 * objects / 100 * frame_gains(answers, [item], difficulty)
    return gain


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the share of the other values that are lower, ties counting half; (N,) in [0, 1]."""
    if len(values) < 2:
        return np.full(len(values), 0.5)
    _, inverse, sizes = np.unique(values, return_inverse=True, return_counts=True)
    lower = np.cumsum(sizes) - sizes
    return (lower + (sizes - 1) / 2)[inverse.reshape(-1)] / (len(values) - 1)


def held_out_groups(frames: PairedFrames, group_by: str) -> list[str]:
    """
    Return the key of each frame; frames of one key are held out together.

    :param group_by: `set`; or `frame`: each frame by itself, and blocks of consecutive frames of a drive.
    """
    if group_by == 'set':
        return list(frames.sets)
    place: dict[int, int] = {}
    keys = []
    for drive in frames.drives.tolist():
        place[drive] = place.get(drive, -1) + 1
        keys.append(f'{drive}/{place[drive] // BLOCK_FRAMES}')
    return keys


def fit_gate(frames: PairedFrames, kind: Literal['logistic', 'linear'] = 'logistic',
             features: Sequence[str] = FEATURES, folds: int = 5, group_by: str = 'set', seed: int = 0,
             classes: Sequence[ClassProtocol] = KITTI_CLASSES
             ) -> GateFit:
    """
    Fit an estimator to where the teacher improves frames most.

    :param kind: `logistic`: the target is the rank of the frame's gain in its set, 0 to 1; `linear`: its gain
        less the set's mean, in objects.
    :param folds: at most; never more than there are groups.
    :raises TrainingError: unknown feature, fewer than two groups, or the teacher gains nothing on any frame.
    """
    labels = frames.student_spec.labels
    names = tuple(feature.name for feature in features_for(labels))
    unknown = sorted(set(features) - set(names))
    if unknown or not features:
        raise TrainingError(f'features: unknown {", ".join(unknown) or "(none given)"}; expected some of '
                            f'{", ".join(names)}')
    answers = frames.answers()
    sets = np.array(frames.sets)
    gains, target = np.zeros(len(frames)), np.zeros(len(frames))
    for name in dict.fromkeys(frames.sets):
        index = np.flatnonzero(sets == name)
        gains[index] = object_gains(answers.take(index), classes)
        target[index] = ranks(gains[index]) if kind == 'logistic' else gains[index] - gains[index].mean()
    if not (gains > 0).any():
        raise TrainingError('the teacher improves no frame: there is nothing to learn')
    groups = held_out_groups(frames, group_by)
    if len(set(groups)) < 2:
        raise TrainingError('all frames are of one group: hold out by frame, or give several sets')
    settings = FeatureSettings.of_thresholds(frames.student_spec.thresholds)
    values = np.array([vector.values for vector in frames.features(settings)])
    columns = [names.index(name) for name in features]
    fit = fit_estimator(tuple(features), values[:, columns], target, labels=labels, kind=kind,
                        settings=settings, groups=groups, folds=min(folds, len(set(groups))), seed=seed)
    skill = {name: collected(fit.held_out[sets == name], gains[sets == name])
             for name in dict.fromkeys(frames.sets)}
    median = {name: np.median(gains[sets == name]) for name in skill}
    better = gains > np.array([median[name] for name in frames.sets])
    area = auroc(_within(fit.held_out, sets), better)
    counts = {name: int((sets == name).sum()) for name in skill}
    trained = {
        'frames': len(frames), 'sets': counts, 'folds': min(folds, len(set(groups))), 'held_out_by': group_by,
        'kind': kind, 'target': 'rank of gain in the set' if kind == 'logistic' else 'gain less the set mean',
        'seed': seed, 'l2': fit.l2, 'held_out_auroc': None if np.isnan(area) else round(area, 4),
        'held_out_skill': {name: None if np.isnan(value) else round(value, 3)
                           for name, value in skill.items()},
        'frames_improved': round(float(np.mean(gains > 0)), 4)}
    estimator = replace(fit.estimator, trained=trained)
    return GateFit(replace(fit, estimator=estimator, auroc=area), gains, skill)


def _within(scores: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Return the rank of each score in its own set: held-out models of different folds share no scale."""
    result = np.zeros(len(scores))
    for name in np.unique(sets):
        result[sets == name] = ranks(scores[sets == name])
    return result


def collected(scores: np.ndarray, gains: np.ndarray, shares: Sequence[float] = _SHARES,
              orders: int = 5) -> float:
    """
    Return how much of the gain the highest scores collect: 0 as random, 1 as the ideal order; NaN: all alike.

    Mean over the shares of (gain sent - expected by chance) / (greatest possible - expected by chance).
    """
    values = []
    for share in shares:
        count = round(share * len(gains))
        chance, best = count * gains.mean(), np.sort(gains)[::-1][:count].sum()
        own = np.mean([gains[sent_frames(scores, share, i)].sum() for i in range(orders)])
        if best - chance > 1e-9:
            values.append((own - chance) / (best - chance))
    return float(np.mean(values)) if values else float('nan')


def weight_table(fit: Fit, most: int = 12) -> list[tuple[str, float, str]]:
    """Return (feature, weight on the standardised feature, transform), the largest first."""
    items = sorted(fit.estimator.features, key=lambda item: -abs(item.weight))
    return [(item.name, item.weight, item.transform) for item in items[:most]]


def describe(result: GateFit, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """
    Return the metadata document `gate`; `extra` adds to its `trained`.

    Numbers have four significant digits: more than a few hundred frames can tell, in a third of the bytes.
    """
    estimator = result.fit.estimator
    return _rounded(replace(estimator, trained={**estimator.trained, **(extra or {})}).to_document())


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f'{value:.4g}')
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
