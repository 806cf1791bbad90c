# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Average precision against the share of frames sent to the teacher, for any ranking of the frames."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kd_perception.errors import EvaluationError
from kd_perception.evaluation.hybrid.frames import Answers
from kd_perception.evaluation.metrics.bootstrap import percentile_interval
from kd_perception.evaluation.metrics.kitti_eval import (
    ClassProtocol,
    Difficulty,
    KITTI_CLASSES,
    KITTI_DIFFICULTIES,
    KittiEvaluator,
    MIN_GROUND_TRUTHS,
)
from kd_perception.evaluation.metrics.matching import VALID

SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)
# Frames of equal score are ordered by chance: figures are means over this many orders.
ORDERS = 10
_LOW_IOU = 0.5
_DRAWS = 4


@dataclass(frozen=True)
class Metric:
    """
    One way to measure: AP R40 of the KITTI protocol, in percent.

    :ivar key: stable name in report.json. :ivar text: for people.
    :ivar protocols: every class that is evaluated. :ivar difficulty: which ground truth counts.
    :ivar counted: indices of the classes that the mean is over.
    """

    key: str
    text: str
    protocols: tuple[ClassProtocol, ...]
    difficulty: Difficulty
    counted: tuple[int, ...]

    @property
    def counted_protocols(self) -> tuple[ClassProtocol, ...]:
        """The classes that the mean is over."""
        return tuple(self.protocols[i] for i in self.counted)

    def mean(self, class_ap: np.ndarray) -> np.ndarray:
        """Return the mean over the counted classes of APs (..., C)."""
        return class_ap[..., list(self.counted)].mean(axis=-1)


def make_metrics(answers: Answers, classes: Sequence[ClassProtocol] = KITTI_CLASSES,
                 difficulty: Difficulty = KITTI_DIFFICULTIES[1]) -> tuple[Metric, Metric]:
    """
    Return the two metrics of the report: the classes' own IoU, and IoU 0.5 for every class.

    The mean is over the classes with at least 41 valid ground truths; without one, over those with any.

    :raises EvaluationError: no class has a valid ground truth.
    """
    counts = truth_counts(answers, classes, difficulty)
    counted = [i for i, n in enumerate(counts) if n >= MIN_GROUND_TRUTHS] or [
        i for i, n in enumerate(counts) if n]
    if not counted:
        raise EvaluationError(f'no labelled object of {", ".join(item.name for item in classes)} counts at '
                              f'difficulty {difficulty.name}: nothing to measure')
    low = tuple(ClassProtocol(item.name, _LOW_IOU, item.neighbours) for item in classes)
    name = difficulty.name
    return (Metric(f'kitti_{name}', f'KITTI, {name}', tuple(classes), difficulty, tuple(counted)),
            Metric('iou50', f'IoU 0.5, {name}', low, difficulty, tuple(counted)))


def truth_counts(answers: Answers, classes: Sequence[ClassProtocol], difficulty: Difficulty) -> list[int]:
    """Return the number of valid ground truths of each class."""
    evaluator = KittiEvaluator(answers.labels, answers.student, min(item.min_iou for item in classes))
    return [int((evaluator.truth_state(item, difficulty) == VALID).sum()) for item in classes]


class HybridAp:
    """AP of the mixed answers by class; what was computed once is remembered."""

    def __init__(self, answers: Answers, metric: Metric):
        """Bind both."""
        self.answers, self.metric = answers, metric
        self._known: dict[bytes, np.ndarray] = {}

    def of(self, sent: np.ndarray) -> np.ndarray:
        """
        Return AP R40 in percent by class, (C,) float64, where the frames `sent` (F,) bool are sent.

        A class that is never detected, and one whose precision is 0/0, count 0.
        """
        key = np.packbits(sent).tobytes()
        if key not in self._known:
            metric = self.metric
            evaluator = KittiEvaluator(self.answers.labels, self.answers.mixed(sent),
                                       min(item.min_iou for item in metric.protocols))
            found = [evaluator.evaluate(item, metric.difficulty).ap_r40 for item in metric.protocols]
            self._known[key] = np.nan_to_num(np.array([0.0 if ap is None else ap for ap in found]))
        return self._known[key]

    def curve(self, scores: np.ndarray, shares: Sequence[float], orders: int = ORDERS,
              seed: int = 0) -> np.ndarray:
        """
        Return AP (R, S, C) where the frames of highest score are sent, for each share.

        :param scores: (F,) finite. :param orders: R where scores tie, each in its own order; else R is 1.
        """
        tied = len(np.unique(scores)) < len(scores)
        return np.array([[self.of(sent_frames(scores, share, seed + i)) for share in shares]
                         for i in range(orders if tied else 1)])


def sent_frames(scores: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """Return (F,) bool: the share of the frames with the highest scores, ties broken by chance."""
    chance = np.random.default_rng(seed).permutation(len(scores))
    order = np.lexsort((chance, -np.asarray(scores, dtype=np.float64)))
    sent = np.zeros(len(scores), dtype=bool)
    sent[order[:round(share * len(scores))]] = True
    return sent


def recovered(ap: ArrayLike, none: ArrayLike, every: ArrayLike) -> np.ndarray:
    """Return the share of the teacher's gain that `ap` holds; NaN where the teacher gains nothing."""
    ap, none, every = (np.asarray(value, dtype=np.float64) for value in (ap, none, every))
    span = every - none
    return np.where(span > 0, (ap - none) / np.where(span > 0, span, 1.0), np.nan)


def area(shares: Sequence[float], ap: np.ndarray) -> float:
    """Return the area under a curve (S,) over the shares, by trapezoids."""
    x, y = np.asarray(shares), np.asarray(ap)
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum())


@dataclass(frozen=True)
class Interval:
    """Bootstrap 95 % intervals of the recovered share, None where they cannot be told."""

    recovered: tuple[float, float] | None
    above_random: tuple[float, float] | None


def recovered_intervals(answers: Answers, metric: Metric, gates: dict[str, np.ndarray], share: float,
                        count: int, seed: int = 0) -> dict[str, Interval]:
    """
    Resample frames and measure again what each gate recovers at one share.

    A gate keeps its scores and picks the highest of the resample; `above_random` is against random choices of
    as many frames of the same resample.

    :param gates: scores (F,) by name. :param count: number of resamples.
    """
    rng = np.random.default_rng(seed)
    size = len(answers.labels.frames)
    values = {name: np.full((count, 2), np.nan) for name in gates}
    for i in range(count):
        index = rng.integers(0, size, size)
        ap = HybridAp(answers.take(index), metric)

        nothing = np.zeros(size)
        none, every = (metric.mean(ap.of(nothing == value)) for value in (1, 0))
        draws = [sent_frames(nothing, share, i * _DRAWS + draw) for draw in range(_DRAWS)]
        chance = np.mean([float(recovered(metric.mean(ap.of(sent)), none, every)) for sent in draws])
        for name, scores in gates.items():
            sent = sent_frames(scores[index], share, i * _DRAWS)
            own = float(recovered(metric.mean(ap.of(sent)), none, every))
            values[name][i] = own, own - chance
    return {name: Interval(percentile_interval(found[:, 0]), percentile_interval(found[:, 1]))
            for name, found in values.items()}
