# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What the two drift components report: without a reference, with one, and after a change."""
import dataclasses

import numpy as np
import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.drift.camera_drift import CameraDrift
from kd_perception.drift.fallback_drift import Audit, audit, AuditedRates, demand_edge, FallbackDrift
from kd_perception.drift.monitor import DriftSettings
from kd_perception.drift.quantities import detection_values, scene_values
from kd_perception.drift.reference import build_reference, DOCUMENT
from kd_perception.fallback.gate import GateDecision
from kd_perception.levels import Level
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec, ThresholdSpec

SPEC = ModelSpec('m', ('Car', 'Van'), InputSpec(96, 128), DecoderSpec('boxes_scores'),
                 ThresholdSpec(score=0.4, score_low=0.05))
SETTINGS = DriftSettings(window=100, false_alarms_per_hour=1)
S = 1_000_000_000


def image(rng, grey=120):
    return np.clip(rng.normal(grey + 10 * rng.normal(), 20, (20, 30, 3)), 0, 255).astype(np.uint8)


def boxes(*rows):
    """Return detections of (left, class, score)."""
    return Detections([(x, 10, x + 10, 20) for x, _, _ in rows], [s for _, _, s in rows],
                      [c for _, c, _ in rows])


@pytest.fixture(scope='module')
def spec():
    """A model whose reference is of 300 images with a car each, and of ambiguities from 0 to 1."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(300):
        found = boxes((5, 0, rng.uniform(0.4, 1)))
        frames.append({**scene_values(image(rng)), **detection_values(found, SPEC.labels, (40, 60), 0.4),
                       'ambiguity.signals': float(rng.random())})
    reference = build_reference(frames, range(300), 2, 10.0, [(1, 4)] * 300)
    return dataclasses.replace(SPEC, documents={DOCUMENT: reference.to_document()})


def values_of(report):
    return dict(report.values)


def test_quantities_by_hand():
    found = boxes((5, 0, 0.9), (20, 1, 0.4), (40, 0, 0.39))
    values = detection_values(found, SPEC.labels, (40, 60), 0.4)
    assert values['detections'] == 2 and values['height'].tolist() == [0.25, 0.25]
    assert values['bottom'].tolist() == [0.5, 0.5]
    assert values['score.Car'] == pytest.approx([0.9]) and values['score.Van'] == pytest.approx([0.4])
    assert scene_values(np.full((40, 60, 3), 77, np.uint8)) == {
        'luminance': 77, 'contrast': 0, 'sharpness': 0}
    with pytest.raises(ValueError, match='expected'):
        scene_values(np.zeros((4, 4), np.uint8))


def test_without_a_reference_it_says_so_and_measures_nothing():
    drift = CameraDrift('front', '/front', SETTINGS, lambda: 0)
    assert drift.report().message == 'no frame yet'
    drift.update(SPEC, np.zeros((0, 0, 3), np.uint8), None)     # would raise if it were looked at
    report = drift.report()
    assert (report.name, report.level, report.message) == (
        'camera front drift', Level.OK, 'no reference statistics')


def test_a_bad_reference_warns_and_stops_nothing():
    drift = CameraDrift('front', '/front', SETTINGS, lambda: 0)
    drift.update(dataclasses.replace(SPEC, documents={DOCUMENT: {'version': 1}}), np.zeros((4, 4, 3)), None)
    report = drift.report()
    assert report.level == Level.WARN
    assert 'unusable: m: kd_perception.drift.rate_hz: is missing' in report.message


def test_switched_off_it_looks_at_nothing(spec):
    drift = CameraDrift('front', '/front', DriftSettings(enabled=False), lambda: 0)
    drift.update(spec, np.zeros((0, 0, 3), np.uint8), None)
    assert drift.report().message == 'switched off' and drift.report().level == Level.OK


def test_the_level_follows_the_images_with_hysteresis(spec):
    rng, clock = np.random.default_rng(1), [0]
    drift = CameraDrift('front', '/front', SETTINGS, lambda: clock[0])

    def show(frames, grey):
        for _ in range(frames):
            drift.update(spec, image(rng, grey), boxes((5, 0, rng.uniform(0.4, 1))))
        clock[0] += S
        return drift.report()

    report = show(50, 120)
    assert (report.level, report.message) == (Level.OK, 'like the reference, 50 of 100 frames seen')
    assert show(60, 120).message == 'like the reference'
    report = show(100, 30)
    assert report.level == Level.WARN and 'drift of luminance (ks, psi, tails)' in report.message
    values = values_of(report)
    assert float(values['luminance.ks']) > float(values['luminance.ks.threshold']) > 0
    assert int(values['alarms']) >= 3 and values['frames'] == values['window'] == '100'
    assert 'height' not in report.message and 'score' not in report.message
    report = show(400, 120)
    assert report.level == Level.WARN and report.message.endswith('(recovering)')
    clock[0] += 60 * S
    assert drift.report().level == Level.OK
    assert values_of(drift.report())['alarms'] == values_of(report)['alarms']


def test_another_model_starts_anew(spec):
    drift, rng = CameraDrift('front', '/front', SETTINGS, lambda: 0), np.random.default_rng(1)
    for _ in range(120):
        drift.update(spec, image(rng, 30), None)
    assert drift.report().level == Level.WARN
    drift.update(SPEC, image(rng, 30), None)
    report = drift.report()
    assert report.message == 'no reference statistics' and not report.values
    drift.reset()
    assert drift.report().message == 'no frame yet'


def decision(score, audited=False, probe=False):
    return GateDecision(send=audited or probe, ambiguous=False, reason='clear', score=score, audit=audited,
                        probe=probe)


def fallback_drift(spec, settings=SETTINGS, scorer='signals', teacher_labels=('Van', 'Car', 'Tram')):
    return FallbackDrift('front', '/front', spec, scorer, 0.4, teacher_labels, 0.2, 0.05, settings,
                         lambda: 0)


def test_an_audit_counts_what_one_of_the_two_does_not_see():
    student = boxes((0, 0, 0.9), (20, 1, 0.5), (40, 0, 0.39), (60, 0, 0.8))
    teacher = boxes((1, 1, 0.9), (21, 1, 0.9), (40, 0, 0.9), (80, 2, 0.9))
    found = audit(student, ('Car', 'Van'), 0.4, teacher, ('Van', 'Car', 'Tram'))
    # The car at 0 agrees; at 20 the classes differ, at 40 the student is below its threshold, at 60 it is
    # alone; trams are none of its classes.
    assert tuple(found) == (2, 3, 2, 3) and found.disagreed == 4 and found.objects == 5


def test_rates_by_hand():
    rates = AuditedRates()
    assert dict(rates.values())['miss_rate'] == 'unknown'
    for found in (Audit(1, 4, 0, 3), Audit(1, 4, 3, 6)):
        rates.add(found)
    values = dict(rates.values())
    assert (values['audited_frames'], values['miss_rate'], values['miss_rate.boxes']) == ('2', '0.250', '8')
    assert (values['false_alarm_rate'], values['false_alarm_rate.boxes']) == ('0.333', '9')


@pytest.mark.parametrize('together', [False, True])
def test_intervals_hold_the_truth_as_often_as_they_say(together):
    """Also where the four boxes of a frame are missed together or not at all."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(100):
        rates = AuditedRates()
        for missed in 4 * rng.binomial(1, 0.3, 60) if together else rng.binomial(4, 0.3, 60):
            rates.add(Audit(int(missed), 4, 0, 4))
        values = dict(rates.values())
        held += float(values['miss_rate.low']) <= 0.3 <= float(values['miss_rate.high'])
    assert held >= 88, 'of 100; 95 expected'


def test_only_answers_to_audited_frames_count(spec):
    drift = fallback_drift(spec)
    drift.student(0, decision(0.5), boxes((0, 0, 0.9)))
    drift.student(1, decision(0.5, audited=True), boxes((0, 0, 0.9)))
    drift.student(2, decision(0.5, audited=True, probe=True), boxes((0, 0, 0.9)))
    for sequence in (0, 1, 1, 2, 3):
        drift.teacher(sequence, boxes((0, 1, 0.9)))
    values = values_of(drift.report())
    assert values['audited_frames'] == '1' and values['miss_rate'] == '0.000'


def test_demand_is_counted_above_the_decile_that_is_nearest_to_the_share(spec):
    document = dict(spec.documents[DOCUMENT])
    edges, shares = next((q['edges'], q['shares']) for q in document['quantities']
                         if q['name'] == 'ambiguity.signals')
    quantity = build_reference([{'ambiguity.signals': i / 100} for i in range(100)], range(100), 1, 10.0
                               ).quantities[0]
    edge, above = demand_edge(quantity, 0.2)
    assert edge == pytest.approx(0.79, abs=0.011) and above == pytest.approx(0.2, abs=0.011)
    assert len(edges) == 9 and sum(shares) == pytest.approx(1, abs=0.01)


def test_demand_ambiguity_and_disagreement_raise_the_level(spec):
    drift, rng = fallback_drift(spec), np.random.default_rng(0)
    for i in range(600):
        drift.student(i, decision(rng.random(), audited=i % 20 == 0), boxes((0, 0, 0.9), (20, 0, 0.9),
                                                                            (40, 0, 0.9)))
        drift.teacher(i, boxes((0, 1, 0.9), (20, 1, 0.9), (40, 1, 0.9), (70, 1, 0.9)))
    report = drift.report()
    assert report.level == Level.OK and report.message == 'like the reference', report
    for i in range(600, 1400):
        drift.student(i, decision(0.9 + 0.1 * rng.random(), audited=i % 20 == 0), boxes((0, 0, 0.9)))
        drift.teacher(i, boxes((20, 1, 0.9)))
    report = drift.report()
    assert report.level == Level.WARN
    for clause in ('drift of ambiguity.signals (ks, psi, tails)', 'drift of fallback (more)',
                   'drift of disagreement (cusum)'):
        assert clause in report.message
    drift.reset()
    assert drift.report().level == Level.OK and values_of(drift.report())['audited_frames'] == '0'


def test_fewer_questions_are_drift_too_and_frames_without_a_judgement_none(spec):
    drift, rng = fallback_drift(spec), np.random.default_rng(0)
    for i in range(1000):
        drift.student(i, decision(float('inf')), boxes())
    assert values_of(drift.report())['frames'] == '0'
    for i in range(1500):
        drift.student(i, decision(0.6 * rng.random()), boxes())
    assert 'fallback (less)' in drift.report().message


def test_a_scorer_or_a_model_without_reference_has_rates_all_the_same(spec):
    for drift, message in (
            (fallback_drift(SPEC), 'no reference statistics'),
            (fallback_drift(spec, scorer='band'), 'no reference statistics of ambiguity.band')):
        drift.student(1, decision(0.5, audited=True), boxes((0, 0, 0.9)))
        drift.teacher(1, boxes())
        report = drift.report()
        assert (report.level, report.message) == (Level.OK, message)
        assert values_of(report)['false_alarm_rate'] == '1.000'
    off = fallback_drift(spec, DriftSettings(enabled=False))
    off.student(1, decision(0.5, audited=True), boxes())
    off.teacher(1, boxes())
    assert off.report().message == 'switched off' and not off.report().values
