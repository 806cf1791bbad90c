# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The content of `evaluate hybrid`'s report.json (docs/how-to/hybrid_evaluation.md)."""
from collections.abc import Sequence
from typing import Any

import numpy as np

from kd_perception.evaluation.hybrid.curve import HybridAp, make_metrics, truth_counts
from kd_perception.evaluation.hybrid.frames import PairedFrames
from kd_perception.evaluation.hybrid.gates import (
    compare_gates,
    DEFAULT,
    HybridOptions,
    LEARNED,
    online_settings,
    scored_gates,
    simulate_online,
)
from kd_perception.evaluation.hybrid.replay import compare_ways, node_settings
from kd_perception.evaluation.metrics.class_account import account_of_classes
from kd_perception.evaluation.metrics.kitti_eval import ClassProtocol, KITTI_CLASSES, MIN_GROUND_TRUTHS
from kd_perception.evaluation.report.content import versions
from kd_perception.fallback.ambiguity import FeatureSettings
from kd_perception.fallback.camera_fallback import FallbackSettings
from kd_perception.fallback.estimator import Estimator
from kd_perception.fallback.gate import GateSettings
from kd_perception.fallback.judge import Judge

SCHEMA, SCHEMA_VERSION = 'kd_perception.hybrid', 1
# With fewer frames the share of 20 % is a handful of them.
_FEW_FRAMES = 100


def evaluate_hybrid(frames: PairedFrames, estimator: Estimator | None, options: HybridOptions,
                    classes: Sequence[ClassProtocol] = KITTI_CLASSES, facts: dict[str, Any] | None = None,
                    command: Sequence[str] = ()) -> dict[str, Any]:
    """
    Compare the gates on frames that both models have seen.

    :param estimator: the student's learned gate, None where it has none.
    :param facts: of models and data, for the report.
    :raises EvaluationError: no class has a valid ground truth.
    """
    answers = frames.answers(options.merge)
    metrics = make_metrics(answers, classes)
    gates = scored_gates(frames, estimator)
    drive = len(np.unique(frames.drives)) < len(frames)
    report: dict[str, Any] = {
        'schema': SCHEMA, 'schema_version': SCHEMA_VERSION, 'frames': len(frames), 'consecutive': drive,
        'ground_truths': dict(zip((item.name for item in classes),
                                  truth_counts(answers, classes, metrics[0].difficulty))),
        'share': options.share, 'merge': options.merge.policy, 'bootstrap': options.bootstrap,
        'seed': options.seed, 'metrics': {}, 'online': {}, 'replay': {},
        'estimator': None if estimator is None else {
            'kind': estimator.kind, 'trained': estimator.trained,
            'features': {item.name: item.weight for item in estimator.features}},
        **(facts or {}), 'versions': versions(), 'command': list(command)}
    aps = [HybridAp(answers, metric) for metric in metrics]
    replays = _replay(frames, aps, options)
    for metric, ap, replayed in zip(metrics, aps, replays):
        report['replay'][metric.key] = replayed
        report['metrics'][metric.key] = compare_gates(ap, gates, options)
        report['online'][metric.key] = []
        for gate in gates:
            if gate.kind in (LEARNED, DEFAULT):
                settings = online_settings(estimator if gate.kind == LEARNED else None, options.share, drive,
                                           options.burst)
                report['online'][metric.key] += [simulate_online(ap, gate, settings, options, running)
                                                 for running in (False, True)]
    report['warnings'] = [
        *frames.problems, *account_of_classes(answers.labels, answers.merged, classes),
        *_warnings(report, estimator)]
    return report


def _replay(frames: PairedFrames, aps: Sequence[HybridAp], options: HybridOptions) -> list[dict[str, Any]]:
    judge = Judge.of_scorer(DEFAULT, FeatureSettings.of_thresholds(frames.student_spec.thresholds))
    gate = GateSettings(burst=options.burst)
    settings = node_settings(judge, FallbackSettings(gate=gate, merge=options.merge))
    return compare_ways(frames, aps, judge, settings, options.replay)


def _warnings(report: dict[str, Any], estimator: Estimator | None) -> list[str]:
    found = []
    if estimator is None:
        found.append('the student has no learned gate (metadata document `gate`); fit-gate makes one')
    if report['frames'] < _FEW_FRAMES:
        found.append(f'{report["frames"]} frames: a share of {report["share"]:g} is '
                     f'{round(report["share"] * report["frames"])} of them')
    metric = next(iter(report['metrics'].values()))
    few = [name for name in metric['mean_over'] if report['ground_truths'][name] < MIN_GROUND_TRUTHS]
    if few:
        found.append(f'no class has {MIN_GROUND_TRUTHS} valid ground truths: the mean is over '
                     f'{", ".join(few)}, and says little')
    for item in report['metrics'].values():
        if item['teacher_ap'] <= item['student_ap']:
            found.append(f'{item["text"]}: the teacher ({item["teacher_ap"]:.1f}) is no better than the '
                         f'student ({item["student_ap"]:.1f}): there is no gain to recover')
    return found
