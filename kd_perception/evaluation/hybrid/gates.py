# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The gates that are compared: each gives every frame a score, and the highest scores go to the teacher."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_perception.evaluation.hybrid.curve import (
    area,
    HybridAp,
    ORDERS,
    recovered,
    recovered_intervals,
    SHARES,
)
from kd_perception.evaluation.hybrid.frames import PairedFrames
from kd_perception.evaluation.hybrid.gain import frame_gains
from kd_perception.evaluation.hybrid.ranking import auroc, risk_coverage
from kd_perception.evaluation.hybrid.replay import ReplayOptions
from kd_perception.evaluation.report.content import number, numbers
from kd_perception.fallback.ambiguity import FeatureSettings, FeatureVector
from kd_perception.fallback.estimator import Estimator
from kd_perception.fallback.gate import Gate, GateSettings
from kd_perception.fallback.merge import MergeSettings
from kd_perception.fallback.running_threshold import LEAVE_SHARE, RunningThreshold
from kd_perception.fallback.scores import Ambiguity, Scorer, SIGNALS, SignalScorer

LEARNED, DEFAULT, RANDOM, ORACLE = 'learned', 'signals', 'random', 'oracle'
_FRAME_NS = 100_000_000


@dataclass(frozen=True)
class HybridOptions:
    """
    What to compute.

    :ivar share: of the frames, that headline figures are for. :ivar merge: how answers are merged.
    :ivar bootstrap: resamples for intervals, 0 for none. :ivar seed: of everything that is left to chance.
    :ivar burst: of the simulated gate's token bucket, in frames.
    :ivar replay: of the fallback's own logic in time.
    :ivar orders: in which frames of equal score are taken, for means; three times as many for `random`.
    """

    share: float = 0.2
    merge: MergeSettings = MergeSettings()
    bootstrap: int = 0
    seed: int = 0
    burst: float = GateSettings.burst
    orders: int = ORDERS
    replay: ReplayOptions = ReplayOptions()

    @property
    def shares(self) -> tuple[float, ...]:
        """The shares at which curves are measured."""
        return tuple(sorted({*SHARES, self.share}))


@dataclass(frozen=True)
class RankedGate:
    """
    A gate on F frames.

    :ivar kind: `learned`, `signals` (the default scorer), `signal`, `random` or `oracle`.
    :ivar scores: (F,) higher goes first. :ivar explained: (F,) reasons, empty where it gives none.
    """

    name: str
    kind: str
    scores: np.ndarray
    explained: tuple[Ambiguity, ...] = ()


def scored_gates(frames: PairedFrames, estimator: Estimator | None) -> list[RankedGate]:
    """
    Return the learned gate (where there is one), the default scorer, each signal alone, and random.

    Signals are computed with the estimator's feature settings, as the node would.
    """
    settings = estimator.settings if estimator else FeatureSettings.of_thresholds(
        frames.student_spec.thresholds)
    vectors = frames.features(settings)
    gates = [] if estimator is None else [_gate(LEARNED, LEARNED, estimator, vectors)]
    gates.append(_gate(DEFAULT, DEFAULT, SignalScorer(), vectors))
    gates += [_gate(name, 'signal', SignalScorer({name: 1.0}), vectors) for name in SIGNALS]
    gates.append(RankedGate(RANDOM, RANDOM, np.zeros(len(frames))))
    return gates


def _gate(name: str, kind: str, scorer: Scorer, vectors: Sequence[FeatureVector]) -> RankedGate:
    found = tuple(scorer.explain(vector) for vector in vectors)
    scores = np.array([item.score for item in found])
    # As in the gate itself: a scorer that fails counts as most ambiguous.
    return RankedGate(name, kind, np.where(np.isnan(scores), np.inf, scores), found)


def compare_gates(ap: HybridAp, gates: Sequence[RankedGate], options: HybridOptions) -> dict[str, Any]:
    """
    Measure every gate, and the oracle, by one metric.

    :return: plain values for report.json; docs/how-to/hybrid_evaluation.md says what each means.
    """
    metric, shares = ap.metric, options.shares
    gains = frame_gains(ap.answers, metric.counted_protocols, metric.difficulty)
    count = len(gains)
    by_class = {}
    for gate in [*gates, RankedGate(ORACLE, ORACLE, gains)]:
        orders = options.orders * (3 if gate.kind == RANDOM else 1)
        by_class[gate.name] = gate, ap.curve(gate.scores, shares, orders, options.seed)
    areas = {name: area(shares, metric.mean(curve).mean(axis=0)) for name, (_, curve) in by_class.items()}
    none = float(metric.mean(ap.of(np.zeros(count, dtype=bool))))
    every = float(metric.mean(ap.of(np.ones(count, dtype=bool))))
    result: dict[str, Any] = {
        'text': metric.text, 'difficulty': metric.difficulty.name,
        'classes': {item.name: item.min_iou for item in metric.protocols},
        'mean_over': [item.name for item in metric.counted_protocols],
        'student_ap': none, 'teacher_ap': every, 'shares': list(shares),
        'frames_improved': float(np.mean(gains > 0)), 'gain_points': float(gains.sum()), 'gates': {}}
    span = areas[ORACLE] - areas[RANDOM]
    for name, (gate, curve) in by_class.items():
        mean = metric.mean(curve)
        held = recovered(mean, none, every)
        risk = risk_coverage(_finite(gate.scores), gains)
        at = shares.index(options.share)
        result['gates'][name] = {
            'kind': gate.kind,
            'ap': numbers(mean.mean(axis=0)),
            'ap_spread': numbers(mean.std(axis=0)),
            'ap_by_class': {item.name: numbers(curve[..., i].mean(axis=0))
                            for i, item in enumerate(metric.protocols)},
            'recovered': numbers(held.mean(axis=0)),
            'recovered_at_share': number(held.mean(axis=0)[at]),
            'relative_area': number((areas[name] - areas[RANDOM]) / span if span > 0 else None),
            'auroc': number(auroc(_finite(gate.scores), gains > 0)),
            'auroc_above_median': number(auroc(_finite(gate.scores), gains > np.median(gains))),
            'aurc': risk.area, 'e_aurc': risk.excess_area, 'skill': number(risk.skill),
            'risk_coverage': _thinned(risk.coverage, risk.risk)}
    if options.bootstrap:
        chosen = {gate.name: gate.scores for gate in gates if gate.kind in (LEARNED, DEFAULT)}
        found = recovered_intervals(ap.answers, metric, {**chosen, ORACLE: gains}, options.share,
                                    options.bootstrap, options.seed)
        for name, interval in found.items():
            result['gates'][name].update(recovered_ci95=_pair(interval.recovered),
                                         above_random_ci95=_pair(interval.above_random))
    return result


def _pair(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _finite(scores: np.ndarray) -> np.ndarray:
    return np.nan_to_num(scores, posinf=np.finfo(np.float64).max / 4)


def _thinned(coverage: np.ndarray, risk: np.ndarray, most: int = 100) -> dict[str, list[float | None]]:
    picked = np.unique(np.linspace(0, len(risk) - 1, min(most, len(risk))).round().astype(int))
    return {'coverage': numbers(coverage[picked]), 'risk': numbers(risk[picked])}


def online_settings(estimator: Estimator | None, share: float, drive: bool,
                    burst: float = GateSettings.burst) -> GateSettings:
    """
    Return the gate's settings as the node would have them.

    With an estimator a frame becomes ambiguous at the score that `share` of its fitting frames reach, and
    clear again below the score that a quarter more of them reach; otherwise at the defaults for signals.

    :param drive: the frames follow one another; lone images get no hysteresis, which would carry one
        image's doubt over to another.
    """
    defaults = GateSettings(share=share, audit_share=min(GateSettings.audit_share, share), burst=burst)
    enter, leave = defaults.enter, defaults.leave
    if estimator is not None and estimator.share_thresholds:
        enter, leave = estimator.threshold_for(share), estimator.threshold_for(min(1.0, LEAVE_SHARE * share))
    if not drive:
        return GateSettings(enter, enter, 1, share, defaults.audit_share, defaults.burst)
    return GateSettings(enter, leave, defaults.leave_frames, share, defaults.audit_share, defaults.burst)


def simulate_online(ap: HybridAp, gate: RankedGate, settings: GateSettings, options: HybridOptions,
                    running: bool = False) -> dict[str, Any]:
    """
    Let `fallback.gate.Gate` decide frame by frame, in order, and measure what comes of it.

    The teacher answers every request in time. :return: plain values for report.json.

    :param running: the thresholds follow the scores of the frames before (`RunningThreshold`); those of
        `settings` are for the beginning.
    """
    online, sent = Gate(settings, options.seed), np.zeros(len(gate.explained), dtype=bool)
    follow = RunningThreshold(settings.share, settings.enter)
    for i, item in enumerate(gate.explained):
        if running:
            online.configure(follow.gate(settings))
        price = follow.price(online.saved) if running else None
        sent[i] = online.decide(item, i * _FRAME_NS, price=price).send
        follow.add(item.score)
    metric = ap.metric
    none, every = (metric.mean(ap.of(np.full(len(sent), value))) for value in (False, True))
    achieved = metric.mean(ap.of(sent))
    share = float(sent.mean())
    chance = metric.mean(ap.curve(np.zeros(len(sent)), [share], 3 * options.orders, options.seed)).mean()
    ranked = metric.mean(ap.curve(gate.scores, [share], options.orders, options.seed)).mean()
    return {
        'gate': gate.name, 'threshold': 'running' if running else 'fixed', 'settings': {
            'enter': settings.enter, 'leave': settings.leave, 'leave_frames': settings.leave_frames,
            'share': settings.share, 'audit_share': settings.audit_share, 'burst': settings.burst},
        'frames': len(sent), 'counts': dict(online.counts), 'share_sent': share, 'ap': float(achieved),
        'recovered': number(float(recovered(achieved, none, every))),
        'random_ap_at_that_share': float(chance),
        'random_recovered_at_that_share': number(float(recovered(chance, none, every))),
        'ranked_recovered_at_that_share': number(float(recovered(ranked, none, every)))}
