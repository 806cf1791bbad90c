# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Shares, curves and gates on made-up frames: ends of the curve, oracle, chance, and a gate that learns."""
import dataclasses
import json

import numpy as np
import pytest

from hybrid_world import world
from kd_perception.boxes.detections import Detections
from kd_perception.errors import EvaluationError, TrainingError
from kd_perception.evaluation.hybrid.curve import (
    area,
    HybridAp,
    make_metrics,
    recovered,
    recovered_intervals,
    sent_frames,
)
from kd_perception.evaluation.hybrid.fit import collected, fit_gate, held_out_groups, object_gains, ranks
from kd_perception.evaluation.hybrid.gain import frame_gains
from kd_perception.evaluation.hybrid.gates import (
    HybridOptions,
    LEARNED,
    online_settings,
    ORACLE,
    RANDOM,
    RankedGate,
    scored_gates,
    simulate_online,
)
from kd_perception.evaluation.hybrid.report import evaluate_hybrid
from kd_perception.evaluation.metrics.kitti_eval import evaluate_kitti, KITTI_CLASSES
from kd_perception.fallback.gate import GateSettings
from kd_perception.fallback.merge import MergeSettings
from kd_perception.fallback.running_threshold import RunningThreshold
from kd_perception.fallback.scores import Ambiguity

COUNT = 60


@pytest.fixture(scope='module')
def made():
    return world(COUNT)


@pytest.fixture(scope='module')
def answers(made):
    return made[0].answers()


def car_ap(labels, table):
    return evaluate_kitti(labels, table, KITTI_CLASSES)['Car']['moderate'].ap_r40


@pytest.mark.parametrize('policy', ['replace', 'union'])
def test_the_ends_of_the_curve_are_the_models_by_the_plain_evaluator(made, policy):
    frames, _ = made
    answers = frames.answers(MergeSettings(policy))
    metric, _ = make_metrics(answers)
    ap = HybridAp(answers, metric)
    curve = ap.curve(np.arange(COUNT), (0.0, 0.5, 1.0))
    assert curve.shape == (1, 3, 3)
    student = frames.answers().student
    assert curve[0, 0, 0] == car_ap(frames.labels, student)
    assert curve[0, 2, 0] == car_ap(frames.labels, answers.merged)
    assert curve[0, 2, 0] == pytest.approx(100)
    assert curve[0, 0, 0] < 60


def test_a_mixture_is_frame_by_frame_one_or_the_other(answers):
    sent = np.arange(COUNT) % 3 == 0
    mixed = answers.mixed(sent)
    for i in range(COUNT):
        source = answers.merged if sent[i] else answers.student
        assert np.array_equal(mixed.frame_objects(i).boxes_xyxy, source.frame_objects(i).boxes_xyxy)
    assert mixed.frames == answers.labels.frames


def test_gain_is_where_the_student_is_blind(made, answers):
    _, blind = made
    metric, low = make_metrics(answers)
    assert metric.counted == low.counted == (0,)      # only cars are labelled
    gains = frame_gains(answers, metric.counted_protocols, metric.difficulty)
    assert gains[blind].min() > 0 and gains[blind].min() > gains[~blind].max()


def test_gain_is_the_marginal_ap_of_the_frame(answers):
    """Against AP written out: sort, count, interpolate, sum over the right detections."""
    metric, _ = make_metrics(answers)
    gains = frame_gains(answers, metric.counted_protocols, metric.difficulty)

    def ap(sent):
        labels = answers.labels
        rows = []
        for i in range(COUNT):
            found = (answers.merged if sent[i] else answers.student).frame_objects(i)
            truth = [tuple(box) for box in labels.frame_objects(i).boxes_xyxy]
            rows += [(score, tuple(np.round(box, 3)) in truth)
                     for box, score in zip(found.boxes_xyxy, found.scores)]
        rows.sort(key=lambda row: (-row[0], row[1]))
        right = np.array([row[1] for row in rows])
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        best = np.array([precision[i:].max() for i in range(len(right))])
        return 100 * best[right].sum() / len(labels)

    for i in (0, 7, 31):
        one = np.arange(COUNT) == i
        expected = (ap(one) - ap(np.zeros(COUNT, bool)) + ap(np.ones(COUNT, bool)) - ap(~one)) / 2
        assert gains[i] == pytest.approx(expected, abs=1e-9)


def test_no_teacher_no_gain(made):
    frames = dataclasses.replace(made[0], teacher=made[0].student)
    answers = frames.answers()
    metric, _ = make_metrics(answers)
    assert not frame_gains(answers, metric.counted_protocols, metric.difficulty).any()
    report = evaluate_hybrid(frames, None, HybridOptions(orders=2))
    assert report['metrics']['iou50']['gates'][ORACLE]['recovered_at_share'] is None
    assert any('no gain to recover' in line for line in report['warnings'])
    with pytest.raises(TrainingError, match='improves no frame'):
        fit_gate(frames, group_by='frame')


def test_oracle_collects_no_less_than_any_gate(made, answers):
    metric, _ = make_metrics(answers)
    gains = frame_gains(answers, metric.counted_protocols, metric.difficulty)
    for gate in scored_gates(made[0], None):
        for share in (0.05, 0.2, 0.5, 0.75):
            own, best = (gains[sent_frames(scores, share)].sum() for scores in (gate.scores, gains))
            assert own <= best + 1e-9


def test_random_is_the_mean_over_all_choices(answers):
    """Of one frame in four: the mean over many orders is the mean over the four choices."""
    small = answers.take(np.array([0, 1, 2, 3]))
    metric, _ = make_metrics(small)
    ap = HybridAp(small, metric)
    every = np.mean([ap.of(np.arange(4) == i) for i in range(4)], axis=0)
    curve = ap.curve(np.zeros(4), (0.25,), orders=400)
    assert curve.mean(axis=(0, 1)) == pytest.approx(every, abs=4)
    assert len({tuple(value) for value in curve[:, 0]}) <= 4


def test_ties_are_broken_by_chance_and_the_seed():
    scores = np.array([1.0, 0, 0, 0, 0, 0, 0, 0])
    picks = [sent_frames(scores, 0.25, seed) for seed in range(50)]
    assert all(pick[0] and pick.sum() == 2 for pick in picks)
    assert len({int(np.flatnonzero(pick)[1]) for pick in picks}) == 7
    assert np.array_equal(sent_frames(scores, 0.25, 3), sent_frames(scores, 0.25, 3))
    assert sent_frames(np.array([np.inf, 0, 1]), 1 / 3)[0]


def test_area_and_recovered():
    assert area((0, 0.5, 1), (0, 1, 1)) == 0.75
    assert recovered(np.array([1.0, 2, 3]), 1, 3).tolist() == [0, 0.5, 1]
    assert np.isnan(recovered(2, 3, 3))
    assert ranks(np.array([5.0, 1, 1, 9])).tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6, 1])
    assert collected(np.arange(20.0), np.arange(20.0)) == pytest.approx(1)
    assert collected(-np.arange(20.0), np.arange(20.0)) == pytest.approx(-1)


def test_a_learned_gate_finds_what_the_student_is_blind_to(made):
    frames, _ = world(90, seed=1, sets=('x', 'y', 'z'))
    fitted = fit_gate(frames, folds=3)
    assert fitted.fit.auroc > 0.9
    assert min(fitted.skill.values()) > 0.6
    assert fitted.fit.estimator.trained['sets'] == {'x': 30, 'y': 30, 'z': 30}
    unseen, blind = made
    report = evaluate_hybrid(unseen, fitted.fit.estimator, HybridOptions(orders=2))
    gates = report['metrics']['kitti_moderate']['gates']
    assert gates[LEARNED]['relative_area'] > 0.7
    assert gates[LEARNED]['recovered_at_share'] > gates[RANDOM]['recovered_at_share'] + 0.1
    learned = next(gate for gate in scored_gates(unseen, fitted.fit.estimator) if gate.kind == LEARNED)
    assert blind[sent_frames(learned.scores, 0.4)].all()


@pytest.mark.parametrize('kind', ['logistic', 'linear'])
def test_a_fit_is_the_same_for_the_same_seed(kind):
    frames, _ = world(40, sets=('x', 'y'))
    first, second = (fit_gate(frames, kind, folds=2).fit.estimator.to_document() for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(first)) == first


def test_object_gain_counts_objects(made):
    frames, blind = world(30, wrong=False)
    gains = object_gains(frames.answers())
    lost = np.bincount(frames.labels.frame_ids, minlength=30)[blind].sum()
    assert gains.sum() == pytest.approx(lost, rel=0.35)
    assert not gains[~blind].any() or abs(gains[~blind]).max() < 0.2


def test_groups():
    frames, _ = world(50, drive=True, sets=('a', 'b'))
    assert len(set(held_out_groups(frames, 'frame'))) == 3
    assert set(held_out_groups(frames, 'set')) == {'a', 'b'}
    alone, _ = world(50)
    assert len(set(held_out_groups(alone, 'frame'))) == 50
    with pytest.raises(TrainingError, match='one group'):
        fit_gate(alone)
    with pytest.raises(TrainingError, match='unknown brightness'):
        fit_gate(alone, features=('brightness',))


def test_online_gate_keeps_its_budget(made, answers):
    frames, _ = world(120, seed=1, sets=('x', 'y', 'z'))
    estimator = fit_gate(frames).fit.estimator
    metric, _ = make_metrics(answers)
    ap, options = HybridAp(answers, metric), HybridOptions(share=0.3, orders=4)
    learned = scored_gates(made[0], estimator)[0]
    item = simulate_online(ap, learned, online_settings(estimator, 0.3, drive=False), options)
    settings = item['settings']
    assert settings['leave'] == settings['enter'] == estimator.threshold_for(0.3)
    assert settings['leave_frames'] == 1
    sent = item['counts']['sent']
    assert item['share_sent'] == sent / COUNT <= (0.3 * COUNT + settings['burst'] + 3) / COUNT
    assert item['recovered'] > item['random_recovered_at_that_share']
    assert item['threshold'] == 'fixed'
    assert online_settings(estimator, 0.3, drive=True).leave < settings['enter']
    assert online_settings(None, 0.3, drive=True).enter == 0.5


def test_a_running_threshold_ranks_where_every_frame_reaches_the_fixed_one(made, answers):
    metric, _ = make_metrics(answers)
    ap, options = HybridAp(answers, metric), HybridOptions(share=0.3, orders=4)
    gains = frame_gains(answers, metric.counted_protocols, metric.difficulty)
    scores = 10 + ranks(gains)
    gate = RankedGate('made', LEARNED, scores, tuple(Ambiguity(score, 'band') for score in scores))
    settings = GateSettings(0.5, 0.5, 1, 0.3, 0.0)
    fixed, running = (simulate_online(ap, gate, settings, options, way) for way in (False, True))
    assert fixed['counts']['ambiguous'] == COUNT > running['counts']['ambiguous']
    assert running['share_sent'] <= fixed['share_sent'] + 1e-9
    assert running['recovered'] > fixed['recovered']


def test_running_threshold():
    follow = RunningThreshold(0.25, prior=7.0, window=40, least=4)
    for score in (1, 2, 3):
        follow.add(score)
    assert follow.at() == 7.0
    follow.add(4)
    follow.add(float('nan'))
    follow.add(float('inf'))
    assert follow.at() == pytest.approx(3.25) and follow.at(1.0) == 1 and follow.at(0.0) == 4
    for _ in range(40):
        follow.add(9)
    assert follow.at(1.0) == 9
    for wrong in (dict(share=2, prior=0), dict(share=0.1, prior=float('nan')),
                  dict(share=0.1, prior=0, window=3)):
        with pytest.raises(ValueError):
            RunningThreshold(**wrong)


def test_flicker_needs_consecutive_frames():
    for drive in (False, True):
        frames, _ = world(6, drive=drive)
        unknown = np.isnan([vector['appeared'] for vector in frames.features(
            scored_settings(frames))])
        assert unknown[0] and unknown[1:].all() != drive


def scored_settings(frames):
    from kd_perception.fallback.ambiguity import FeatureSettings
    settings = FeatureSettings.of_thresholds(frames.student_spec.thresholds)
    assert settings.score_work == frames.student_spec.thresholds.score
    return settings


def test_intervals_hold_the_figure(answers):
    metric, _ = make_metrics(answers)
    gains = frame_gains(answers, metric.counted_protocols, metric.difficulty)
    ap = HybridAp(answers, metric)
    none, every = (metric.mean(ap.of(np.full(COUNT, value))) for value in (False, True))
    found = recovered(metric.mean(ap.of(sent_frames(gains, 0.2))), none, every)
    interval = recovered_intervals(answers, metric, {'oracle': gains}, 0.2, 20)['oracle']
    assert interval.recovered[0] <= found <= interval.recovered[1]
    assert interval.above_random[0] > 0


def test_nothing_to_measure(made):
    frames = dataclasses.replace(
        made[0], labels=made[0].labels.select(np.zeros(len(made[0].labels), dtype=bool)))
    with pytest.raises(EvaluationError, match='nothing to measure'):
        evaluate_hybrid(frames, None, HybridOptions(orders=2))


def test_frames_without_any_detection_are_ordinary(made):
    frames = dataclasses.replace(made[0], student=(Detections.empty(),) * COUNT)
    report = evaluate_hybrid(frames, None, HybridOptions(bootstrap=2, orders=1))
    json.dumps(report, allow_nan=False)
    metric = report['metrics']['kitti_moderate']
    assert metric['student_ap'] == 0 and metric['teacher_ap'] == pytest.approx(100)
    assert metric['gates'][ORACLE]['recovered_at_share'] > 0.2
