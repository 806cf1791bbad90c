# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Run every protocol over a `FrameSet`: the content of report.json (docs/how-to/evaluation.md)."""
from collections.abc import Sequence
from dataclasses import dataclass
import hashlib
import importlib.metadata
import math
import platform
from typing import Any

import numpy as np

from kd_perception import __version__
from kd_perception.errors import EvaluationError
from kd_perception.evaluation.frame_set import FrameSet
from kd_perception.evaluation.metrics.calibration import Calibration, class_calibration
from kd_perception.evaluation.metrics.class_account import account_of_classes, count_types
from kd_perception.evaluation.metrics.coco_ap import coco_ap
from kd_perception.evaluation.metrics.kitti_eval import (
    ClassProtocol,
    Difficulty,
    KITTI_CLASSES,
    KITTI_DIFFICULTIES,
    KittiEvaluator,
    KittiResult,
    MIN_GROUND_TRUTHS,
)
from kd_perception.evaluation.metrics.miss_rate import (
    caltech_frames,
    CALTECH_SUBSETS,
    log_average_miss_rate,
    MissRate,
    REFERENCE_FPPI,
)
from kd_perception.evaluation.metrics.mistakes import operating_point, OperatingPoint

SCHEMA = 'kd_perception.evaluation'
SCHEMA_VERSION = 1
# Box height stands for distance: a car 1.5 m high seen by KITTI's camera (f = 720 px) is 25 px high at 43 m,
# 50 px at 22 m, 100 px at 11 m, 200 px at 5 m.
HEIGHT_BINS_PX = (25.0, 50.0, 100.0, 200.0, math.inf)
# pycocotools takes 10 s for this many detections; the rest of the evaluation takes under 1 s.
COCO_AUTO_LIMIT = 100_000
PERSON_CLASS = 'Pedestrian'


@dataclass(frozen=True)
class EvaluationOptions:
    """
    What to compute.

    :ivar bootstrap: resamples for 95 % intervals, 0 for none.
    :ivar coco: 'on', 'off', or 'auto': where pycocotools is there and detections are at most 100,000.
    :ivar score_threshold: working threshold for counts and for the gallery.
    """

    classes: tuple[ClassProtocol, ...] = KITTI_CLASSES
    difficulties: tuple[Difficulty, ...] = KITTI_DIFFICULTIES
    bootstrap: int = 200
    seed: int = 0
    coco: str = 'auto'
    score_threshold: float = 0.5


@dataclass
class Evaluation:
    """The report's content, and what the gallery needs of the computation."""

    report: dict[str, Any]
    evaluator: KittiEvaluator
    points: dict[str, OperatingPoint]


def number(value: float | None) -> float | None:
    """Return a float that JSON can hold: None for NaN and infinity."""
    return float(value) if value is not None and math.isfinite(value) else None


def numbers(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """Return floats that JSON can hold."""
    return [number(value) for value in values]


def _result(result: KittiResult, curve: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {
        'ap_r40': number(result.ap_r40), 'ap_r11': number(result.ap_r11),
        'valid_ground_truths': result.valid_ground_truths, 'few_ground_truths': result.few_ground_truths,
        'ci95': list(result.ci95) if result.ci95 else None}
    if result.precision is None:
        entry['reason'] = 'class never detected'
    elif result.valid_ground_truths == 0:
        entry['reason'] = 'no valid ground truth'
    elif entry['ap_r40'] is None or entry['ap_r11'] is None:
        entry['reason'] = 'precision is 0/0 at a threshold, as in the official program'
    if curve and result.resampled is not None:
        entry['resampled'] = _shorter(result.resampled, 3)
    if curve and result.precision is not None:
        entry['precision'] = numbers(result.precision)
        entry['thresholds'] = numbers(result.thresholds)
    return entry


def _shorter(values: np.ndarray, digits: int) -> list[float | None]:
    """Return figures of resamples for JSON: as many digits as their spread is worth."""
    return numbers(np.round(values, digits))


def resampling_sha256(names: Sequence[str], groups: np.ndarray | None) -> str:
    """Return what two reports have in common whose resamples, by number, are draws of the same frames."""
    text = '\n'.join(map(str, names)) + ('' if groups is None else f'\n{np.asarray(groups).tolist()}')
    return hashlib.sha256(text.encode()).hexdigest()


def _miss_rate(result: MissRate) -> dict[str, Any]:
    fppi, miss = result.fppi, result.miss
    # A few hundred points draw the same curve as a point for each detection.
    wanted = np.concatenate([[0], np.geomspace(1e-4, 100, 200)])
    shown = np.unique(np.searchsorted(fppi, wanted, side='right'))
    shown = shown[shown > 0] - 1
    return {'lamr': number(result.lamr), 'ci95': list(result.ci95) if result.ci95 else None,
            'resampled': None if result.resampled is None else _shorter(result.resampled, 5),
            'recall_at_fppi': numbers(result.recall_at_fppi),
            'valid_ground_truths': result.valid_ground_truths,
            'few_ground_truths': result.valid_ground_truths < MIN_GROUND_TRUTHS,
            'curve': {'fppi': numbers(fppi[shown]), 'miss': numbers(miss[shown])}}


def _calibration(result: Calibration) -> dict[str, Any]:
    return {'d_ece': number(result.d_ece), 'reason': result.reason or None,
            'detections': int(result.counts.sum()),
            'bins': {'mean_score': numbers(result.mean_score), 'precision': numbers(result.precision),
                     'count': result.counts.tolist()}}


def _point(point: OperatingPoint) -> dict[str, Any]:
    return {'threshold': point.threshold, 'precision': number(point.precision),
            'recall': number(point.recall), 'true_positives': point.true_positives,
            'false_positives': len(point.false_alarms), 'missed': len(point.missed)}


def height_bins(hardest: Difficulty) -> list[Difficulty]:
    """Return bins of box height as difficulties, with the hardest level's occlusion and truncation."""
    return [Difficulty(f'{low:g}-{high:g}' if math.isfinite(high) else f'{low:g}+', low,
                       hardest.max_occlusion, hardest.max_truncation, high, slack=1.25)
            for low, high in zip(HEIGHT_BINS_PX[:-1], HEIGHT_BINS_PX[1:])]


def latency_percentiles(latency_ns: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return {stage: {p50, p95, p99, max, mean, count}} in ms."""
    result = {}
    for stage, durations in latency_ns.items():
        ms = np.asarray(durations, dtype=np.float64) / 1e6
        if len(ms):
            p50, p95, p99 = np.percentile(ms, [50, 95, 99])
            result[stage] = {'p50': float(p50), 'p95': float(p95), 'p99': float(p99), 'max': float(ms.max()),
                             'mean': float(ms.mean()), 'count': len(ms)}
    return result


def latency_histogram(latency_ns: dict[str, np.ndarray], bins: int = 60) -> dict[str, dict[str, list[float]]]:
    """Return {stage: {edges_ms, count}}; the last 0.5 % of a long tail goes into the last bin."""
    result = {}
    for stage, durations in latency_ns.items():
        ms = np.asarray(durations, dtype=np.float64) / 1e6
        if len(ms):
            top = max(float(np.percentile(ms, 99.5)), float(ms.min()) + 1e-3)
            counts, edges = np.histogram(np.minimum(ms, top), bins=bins, range=(float(ms.min()), top))
            result[stage] = {'edges_ms': edges.tolist(), 'count': counts.tolist()}
    return result


def versions() -> dict[str, str]:
    """Return the versions of what computed the figures; a package that is not installed is left out."""
    found = {'kd_perception': __version__, 'python': platform.python_version(),
             'platform': platform.platform()}
    for package in ('numpy', 'onnxruntime', 'opencv-python-headless', 'opencv-python', 'rosbags',
                    'pycocotools'):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def evaluate_frames(frames: FrameSet, options: EvaluationOptions,
                    conditions: dict[str, np.ndarray] | None = None, groups: np.ndarray | None = None,
                    command: Sequence[str] = ()) -> Evaluation:
    """
    Compute every figure of the report.

    :param conditions: {tag: (F,) bool}.
    :param groups: (F,) int64 scene groups for the bootstrap.
    :param command: the command line, for the report.
    :raises EvaluationError: there is no frame.
    """
    if not frames.labels.frames:
        raise EvaluationError('no frame to evaluate')
    lowest = min(protocol.min_iou for protocol in options.classes)
    evaluator = KittiEvaluator(frames.labels, frames.detections, lowest)
    hardest = options.difficulties[-1]
    middle = options.difficulties[len(options.difficulties) // 2]
    resampling = (options.bootstrap, groups, options.seed)
    results, bins, calibration, points, counts = {}, {}, {}, {}, {}
    for protocol in options.classes:
        results[protocol.name] = {
            level.name: _result(evaluator.evaluate(protocol, level, *resampling), True)
            for level in options.difficulties}
        bins[protocol.name] = {
            level.name: _result(evaluator.evaluate(protocol, level, *resampling), False)
            for level in height_bins(hardest)}
        calibration[protocol.name] = _calibration(class_calibration(evaluator, protocol, hardest))
        points[protocol.name] = operating_point(evaluator, protocol, middle, options.score_threshold)
        counts[protocol.name] = {'difficulty': middle.name, **_point(points[protocol.name])}
    details = _miss_rates(frames, options, groups)
    warnings = [*frames.warnings,
                *account_of_classes(frames.labels, frames.detections, options.classes)]
    report = {
        'schema': SCHEMA, 'schema_version': SCHEMA_VERSION,
        'results': results,
        'miss_rate': {name: item['lamr'] for name, item in details.items()},
        'miss_rate_details': details,
        'reference_fppi': REFERENCE_FPPI.tolist(),
        'height_bins_px': bins,
        'conditions': _conditions(frames, options, conditions or {}, groups),
        'calibration': calibration,
        'operating_points': counts,
        'coco': _coco(frames, options, warnings),
        'latency_ms': latency_percentiles(frames.latency_ns),
        'latency_histogram': latency_histogram(frames.latency_ns),
        'frames': frames.frames,
        'objects': {'labels': len(frames.labels), 'detections': len(frames.detections),
                    'label_types': count_types(frames.labels),
                    'detection_types': count_types(frames.detections)},
        'recordings': {'count': len(set(frames.bags)), 'lost_messages': frames.lost_messages},
        'model': frames.model,
        'data': {'sha256': frames.data_sha256, **frames.source},
        'protocol': {
            'classes': {item.name: {'min_iou': item.min_iou, 'neighbours': list(item.neighbours)}
                        for item in options.classes},
            'difficulties': {item.name: {
                'min_height_px': item.min_height_px, 'max_occlusion': item.max_occlusion,
                'max_truncation': item.max_truncation} for item in options.difficulties},
            'bootstrap': options.bootstrap, 'seed': options.seed,
            'resampled': 'frames' if groups is None else 'scene groups',
            'resampling_sha256': resampling_sha256(frames.labels.frames, groups),
            'groups': None if groups is None else int(groups.max()) + 1},
        'versions': versions(),
        'command': list(command),
        'warnings': warnings}
    return Evaluation(report, evaluator, points)


def _miss_rates(frames: FrameSet, options: EvaluationOptions,
                groups: np.ndarray | None) -> dict[str, dict[str, Any]]:
    """Log-average miss rates of the Caltech subsets, where pedestrians are among the classes."""
    protocol = next((item for item in options.classes if item.name.lower() == PERSON_CLASS.lower()), None)
    if protocol is None:
        return {}
    details = {}
    for subset in CALTECH_SUBSETS:
        prepared = caltech_frames(frames.labels, frames.detections, subset, protocol.name,
                                  (*protocol.neighbours, 'DontCare'), frames.image_hw)
        details[subset.name] = _miss_rate(log_average_miss_rate(
            prepared, bootstrap=options.bootstrap, groups=groups, seed=options.seed))
    return details


def _conditions(frames: FrameSet, options: EvaluationOptions, conditions: dict[str, np.ndarray],
                groups: np.ndarray | None) -> dict[str, Any]:
    lowest = min(protocol.min_iou for protocol in options.classes)
    report: dict[str, Any] = {}
    for tag, mask in sorted(conditions.items()):
        index = np.flatnonzero(mask)
        evaluator = KittiEvaluator(frames.labels.take_frames(index),
                                   frames.detections.take_frames(index), lowest)
        own = None if groups is None else np.unique(groups[index], return_inverse=True)[1].reshape(-1)
        report[tag] = {'frames': len(index), 'results': {
            protocol.name: {level.name: _result(
                evaluator.evaluate(protocol, level, options.bootstrap, own, options.seed), False)
                for level in options.difficulties} for protocol in options.classes}}
    return report


def _coco(frames: FrameSet, options: EvaluationOptions, warnings: list[str]) -> dict[str, Any] | None:
    if options.coco == 'off':
        return None
    if options.coco == 'auto' and len(frames.detections) > COCO_AUTO_LIMIT:
        warnings.append(f'COCO AP left out: {len(frames.detections)} detections, over {COCO_AUTO_LIMIT} it '
                        'must be asked for')
        return None
    try:
        return coco_ap(frames.labels, frames.detections, options.classes)
    except ImportError:
        if options.coco == 'on':
            raise EvaluationError('COCO AP was asked for, and pycocotools is not installed') from None
        warnings.append('COCO AP left out: pycocotools is not installed')
        return None
