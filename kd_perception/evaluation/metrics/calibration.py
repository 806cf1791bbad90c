# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Does a score of 0.8 mean that 8 of 10 such detections are right?

Detection expected calibration error (D-ECE) of Küppers, Kronenberger, Shantia, Haselhoff, "Multivariate
confidence calibration for object detection", CVPR Workshops 2020; figures equal those of their package
netcal.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kd_perception.errors import EvaluationError
from kd_perception.evaluation.metrics.kitti_eval import ClassProtocol, Difficulty, KittiEvaluator
from kd_perception.evaluation.metrics.matching import VALID

DEFAULT_BINS = 10


@dataclass(frozen=True)
class Calibration:
    """
    Calibration of the detections of one class.

    :ivar d_ece: expected calibration error, 0 to 1; None without detections or with scores outside 0 to 1.
    :ivar mean_score, precision: (B,) mean score and share of right detections in each score bin, NaN where
        the bin is empty.
    :ivar counts: (B,) int64 detections in each bin.
    :ivar reason: why ``d_ece`` is None.
    """

    d_ece: float | None
    mean_score: np.ndarray
    precision: np.ndarray
    counts: np.ndarray
    reason: str = ''


def detection_ece(scores: np.ndarray, matched: np.ndarray, features: np.ndarray | None = None,
                  bins: Sequence[int] = (DEFAULT_BINS,), sample_threshold: int = 1) -> float:
    """
    Return the D-ECE: the mean over bins, weighed by their counts, of \\|precision - mean score\\|.

    :param scores: (N,) in 0 to 1.
    :param matched: (N,) bool or 0/1: the detection is right.
    :param features: (N, K) further quantities to bin by, in 0 to 1, such as box centre and size relative to
        the image; None for the score alone.
    :param bins: number of bins of the score and of each feature, 1 + K values.
    :param sample_threshold: bins with fewer detections add nothing.
    :raises EvaluationError: no detection, a value outside 0 to 1, or shapes that do not fit.
    """
    scores = np.asarray(scores, dtype=np.float64).reshape(-1)
    columns = [scores[:, None]]
    if features is not None:
        columns.append(np.asarray(features, dtype=np.float64).reshape(len(scores), -1))
    samples = np.concatenate(columns, axis=1)
    right = np.asarray(matched, dtype=np.float64).reshape(-1)
    if not len(scores) or len(right) != len(scores) or samples.shape[1] != len(bins):
        raise EvaluationError(f'D-ECE: {len(scores)} scores, {len(right)} matches, {samples.shape[1]} '
                              f'quantities for {len(bins)} bin numbers')
    if not ((samples >= 0) & (samples <= 1)).all():
        raise EvaluationError('D-ECE: a score or feature lies outside 0 to 1')
    edges = [np.linspace(0.0, 1.0, number + 1) for number in bins]
    # As numpy.histogramdd: bins are closed on the left, the last one on both sides.
    index = [np.minimum(np.searchsorted(edge, samples[:, i], side='right') - 1, len(edge) - 2)
             for i, edge in enumerate(edges)]
    cell = np.ravel_multi_index(index, tuple(bins))
    counts = np.bincount(cell)
    deviation = np.abs(np.bincount(cell, right) - np.bincount(cell, scores))
    return float(deviation[counts >= max(1, sample_threshold)].sum() / len(scores))


def reliability(scores: np.ndarray, matched: np.ndarray, bins: int = DEFAULT_BINS) -> Calibration:
    """Return D-ECE and the reliability diagram of detections (N,) with scores and right or wrong."""
    scores = np.asarray(scores, dtype=np.float64)
    nothing = np.full(bins, np.nan)
    if not len(scores):
        return Calibration(None, nothing, nothing, np.zeros(bins, dtype=np.int64), 'no detections')
    if scores.min() < 0 or scores.max() > 1:
        return Calibration(None, nothing, nothing, np.zeros(bins, dtype=np.int64), 'scores outside 0 to 1')
    edges = np.linspace(0.0, 1.0, bins + 1)
    cell = np.minimum(np.searchsorted(edges, scores, side='right') - 1, bins - 1)
    counts = np.bincount(cell, minlength=bins)
    with np.errstate(invalid='ignore'):
        mean_score = np.bincount(cell, scores, minlength=bins) / counts
        precision = np.bincount(cell, np.asarray(matched, dtype=np.float64), minlength=bins) / counts
    return Calibration(detection_ece(scores, matched, bins=(bins,)), mean_score, precision, counts)


def class_calibration(evaluator: KittiEvaluator, protocol: ClassProtocol, difficulty: Difficulty,
                      bins: int = DEFAULT_BINS) -> Calibration:
    """
    Return the calibration of one class.

    A detection is right where it is the highest-scoring one over the class's IoU of a ground truth that
    counts. Detections on ignored ground truth, in DontCare regions and below the least height are left out.
    """
    matcher = evaluator.matcher(protocol, difficulty)
    state = evaluator.detection_state(protocol, difficulty)
    found = matcher.match_by_score()
    valid_truth = evaluator.truth_state(protocol, difficulty)[matcher.truth_rows] == VALID
    right = np.zeros(len(state), dtype=bool)
    right[found[valid_truth & (found >= 0)]] = True
    counted = (state == VALID) & ~evaluator.in_region(protocol)
    counted[found[~valid_truth & (found >= 0)]] = False
    return reliability(evaluator.detections.scores[counted], right[counted], bins)
