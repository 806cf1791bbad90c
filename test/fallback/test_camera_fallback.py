# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The parts together: what a camera's fallback does as a whole."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.fallback.ambiguity import FeatureExtractor, FeatureSettings
from kd_perception.fallback.arbiter import ArbiterSettings, Verdict
from kd_perception.fallback.breaker import BreakerSettings, BreakerState, TeacherBreaker
from kd_perception.fallback.camera_fallback import CameraFallback, FallbackSettings
from kd_perception.fallback.estimator import Estimator, FeatureWeight
from kd_perception.fallback.gate import GateSettings
from kd_perception.fallback.merge import LabelMap, MergeSettings
from kd_perception.fallback.scores import Ambiguity, SignalScorer
from kd_perception.fallback.state import FallbackState, StateSettings
from kd_perception.fallback.teacher_load import LoadSettings
from kd_perception.images.scene import SceneSignals

MS = 1_000_000
SURE = Detections([[50, 50, 90, 90]], [0.95], [0])
DOUBT = Detections([[50, 50, 90, 90]], [0.45], [0])
ANSWER = Detections([[50, 50, 90, 90]], [0.8], [1])
SETTINGS = FallbackSettings(
    gate=GateSettings(share=1.0, audit_share=0.0, leave=0.5, leave_frames=1, refresh=False),
    arbiter=ArbiterSettings(deadline_ns=100 * MS),
    breaker=BreakerSettings(misses=3, window=5, probe_interval_ns=500 * MS, successes=2), max_in_flight=9,
    load=LoadSettings(pace=False))


def make(settings=SETTINGS, scorer=None, camera='front', **options):
    labels = LabelMap.by_name(('Car', 'Van'), ('Van', 'Car'))
    extractor = FeatureExtractor(FeatureSettings(), ('Car', 'Van'))
    scorer = scorer or SignalScorer({'band': 1.0})
    return CameraFallback(camera, labels, extractor, scorer, 0, settings, **options)


def student(fallback, i, now_ms, detections=DOUBT, **options):
    return fallback.on_student(i, detections, now_ms * MS, image_hw=(375, 1242), **options)


def sources(outputs):
    return [o.provenance.source.value for o in outputs]


def test_clear_and_ambiguous():
    fallback = make()
    step = student(fallback, 1, 0, SURE)
    assert not step.send and sources(step.outputs) == ['student']
    step = student(fallback, 2, 100)
    assert step.send and step.outputs == () and step.decision.reason == 'band'
    assert step.features['band'] == 1
    answer = fallback.on_teacher(2, ANSWER, 150 * MS)
    assert sources(answer.outputs) == ['teacher']
    out = answer.outputs[0]
    assert [fallback.labels[c] for c in out.detections.class_ids] == ['Car']
    assert fallback.report(150 * MS).state is FallbackState.NOMINAL
    counts = fallback.counts()
    assert counts['gate.sent'] == counts['breaker.answered'] == counts['arbiter.answer.accepted'] == 1


def test_empty_frame_escalates():
    fallback = make(scorer=SignalScorer({'empty': 1.0}))
    step = student(fallback, 1, 0, Detections.empty())
    assert step.send and step.decision.reason == 'empty'
    assert len(fallback.on_teacher(1, ANSWER, 1 * MS).outputs[0].detections) == 1


def test_scene_alone_escalates():
    fallback = make(scorer=SignalScorer({'dark': 1.0}))
    assert not student(fallback, 1, 0, SURE).send
    night = SceneSignals(10.0, 5.0, 0.95, 0.0, 10.0)
    assert student(fallback, 2, 100, SURE, scene=night).decision.reason == 'dark'


def test_estimator_judges():
    estimator = Estimator('logistic', 0.0, (FeatureWeight('accepted.Car', -4.0), FeatureWeight('empty', 3.0)))
    fallback = make(scorer=estimator)
    assert not student(fallback, 1, 0, SURE).send
    step = student(fallback, 2, 100, Detections.empty())
    assert step.send and step.decision.reason == 'empty' and step.decision.score > 0.9


def test_without_the_image_nothing_is_sent_and_nothing_waits():
    step = student(make(), 1, 0, image_at_hand=False)
    assert not step.send and step.outputs[0].provenance.unverified == 'no_image'


def test_outage_and_recovery():
    fallback, now, latencies = make(), 0, []
    for i in range(3):                              # the teacher dies: three deadlines are lost to it
        assert student(fallback, i, now).send
        out, = fallback.on_tick((now + 100) * MS)
        assert sources([out]) == ['student-late-teacher']
        now += 200
    assert fallback.breaker.state is BreakerState.OPEN
    report = fallback.report(now * MS)
    assert report.state is FallbackState.DEGRADED
    assert report.message == '3 of the last 3 requests had no good answer in time, breaker open'
    sent = []
    for i in range(3, 20):                          # from now on no frame waits, probes or not
        step = student(fallback, i, now)
        out, = step.outputs
        assert sources([out]) == ['student-no-teacher'] and out.provenance.unverified == 'teacher_unavailable'
        latencies.append(out.provenance.waited_ns)
        sent.append(step.send)
        now += 200
    assert set(latencies) == {0} and 1 <= sum(sent) <= 4
    # It is back: the probes are answered, also those on clear frames.
    answered = 0
    for i in range(20, 60):
        step = student(fallback, i, now, SURE)
        if step.send:
            assert step.decision.probe and sources(step.outputs) == ['student']
            assert fallback.on_teacher(i, ANSWER, (now + 50) * MS).verdict is Verdict.PROBE
            answered += 1
        report = fallback.report(now * MS)
        now += 200
    assert answered == 2 and fallback.breaker.state is BreakerState.CLOSED
    assert report.state is FallbackState.NOMINAL and report.changes == 2
    assert student(fallback, 99, now).send


def test_a_teacher_that_is_always_late_is_not_waited_for():
    fallback = make()
    for i in range(3):
        student(fallback, i, 200 * i)
        assert fallback.on_teacher(i, ANSWER, (200 * i + 150) * MS).verdict is Verdict.LATE
    assert fallback.breaker.state is BreakerState.OPEN
    assert fallback.counts()['breaker.missed'] == fallback.counts()['breaker.late'] == 3


def test_unusable_answers_open_the_breaker_too():
    fallback = make()
    for i in range(3):
        student(fallback, i, 200 * i)
        assert sources(fallback.on_teacher(i, None, (200 * i + 1) * MS).outputs) == ['student-no-teacher']
    assert fallback.breaker.state is BreakerState.OPEN
    probe = student(fallback, 10, 5000)
    assert probe.decision.probe
    assert fallback.on_teacher(10, None, 5001 * MS).verdict is Verdict.PROBE
    assert fallback.counts()['breaker.probes_failed'] == 1
    assert 'cannot be used' in fallback.report(5001 * MS).message


def test_silence_opens_the_breaker_without_another_frame():
    fallback = make(dataclasses.replace(SETTINGS, breaker=BreakerSettings(misses=5)))
    student(fallback, 1, 0)
    student(fallback, 2, 10)
    fallback.on_tick(2000 * MS)
    assert fallback.report(2000 * MS).message.startswith('no image for 2.0 s; teacher silent for 2.0 s')


def test_overflow_and_shutdown_are_not_the_teachers_fault():
    fallback = make(dataclasses.replace(
        SETTINGS, arbiter=ArbiterSettings(deadline_ns=100 * MS, max_pending=1)))
    for i in range(5):
        student(fallback, i, i)
    assert sources(fallback.flush(6 * MS)) == ['student-late-teacher']
    assert fallback.counts()['breaker.missed'] == 0
    assert fallback.counts()['arbiter.unverified.overflow'] == 4
    assert fallback.counts()['arbiter.outputs'] == 5


def test_without_a_teacher_by_design():
    fallback = make(dataclasses.replace(SETTINGS, teacher=False))
    step = student(fallback, 1, 0)
    assert not step.send and step.outputs[0].provenance.unverified == 'teacher_off'
    report = fallback.report(0)
    assert (report.state, report.message) == (FallbackState.DEGRADED, 'teacher is switched off')


def test_student_and_camera_silent():
    fallback = make()
    fallback.on_image(0)
    assert fallback.report(1000 * MS - 1).state is FallbackState.NOMINAL
    fallback.on_image(1000 * MS - 1)
    report = fallback.report(1000 * MS)
    assert report.state is FallbackState.ERROR
    assert report.message == 'images arrive, no result of the student for 1.0 s'
    assert fallback.report(2000 * MS - 1).message == 'no image for 1.0 s'


def test_probe_deadline_follows_the_arbiters():
    fallback = make()
    assert fallback.breaker.settings.probe_deadline_ns == 100 * MS
    fallback.configure(dataclasses.replace(SETTINGS, arbiter=ArbiterSettings(deadline_ns=70 * MS)))
    assert fallback.breaker.settings.probe_deadline_ns == 70 * MS


def test_live_reconfiguration_reaches_every_part():
    fallback = make()
    student(fallback, 1, 0)
    fallback.configure(dataclasses.replace(
        SETTINGS, gate=GateSettings(share=0.0, audit_share=0.0), arbiter=ArbiterSettings(deadline_ns=10 * MS),
        merge=MergeSettings('union', student_score=0.5)))
    assert fallback.settings.gate.share == 0.0
    assert fallback.on_teacher(1, Detections.empty(), 5 * MS).outputs[0].provenance.from_student == 0
    step = student(fallback, 2, 6)
    assert not step.send and len(step.outputs[0].detections) == 0       # 0.45 is below the new limit
    fallback.configure(dataclasses.replace(
        SETTINGS, arbiter=ArbiterSettings(deadline_ns=10 * MS),
        state=StateSettings(camera_silence_ns=50 * MS)))
    student(fallback, 3, 20)
    assert fallback.next_deadline() == 30 * MS
    assert fallback.report(69 * MS).state is FallbackState.NOMINAL
    assert fallback.report(70 * MS).state is FallbackState.ERROR


def test_a_miss_found_by_the_next_result_counts():
    fallback = make(dataclasses.replace(SETTINGS, breaker=BreakerSettings(misses=1)))
    assert student(fallback, 1, 0).send
    late = student(fallback, 2, 150, SURE)
    assert sources(late.outputs) == ['student-late-teacher', 'student']
    assert fallback.breaker.state is BreakerState.OPEN


@pytest.mark.parametrize('notice', ['on_tick', 'report'])
def test_silence_is_noticed_by(notice):
    fallback = make(dataclasses.replace(SETTINGS, breaker=BreakerSettings(misses=10)))
    student(fallback, 1, 0)
    student(fallback, 2, 10)
    getattr(fallback, notice)(2000 * MS)
    assert fallback.breaker.state is BreakerState.OPEN


def test_two_cameras_of_one_teacher():
    """A shared breaker opens for both, and tells their tickets apart."""
    breaker = TeacherBreaker(SETTINGS.breaker_settings())
    front, rear = (make(camera=name, breaker=breaker) for name in ('front', 'rear'))
    for i in range(3):
        student(front, i, i)
    front.on_tick(500 * MS)
    assert student(rear, 1, 600).outputs[0].provenance.unverified == 'teacher_unavailable'
    probe = student(rear, 2, 1100)
    assert probe.decision.probe
    assert not student(front, 9, 1101).send         # one probe at a time
    front.on_teacher(0, ANSWER, 1110 * MS)
    assert breaker.state is BreakerState.HALF_OPEN and breaker.counts['late'] == 1
    rear.on_teacher(2, ANSWER, 1120 * MS)
    assert breaker.counts['answered'] == 1
    rear.configure(SETTINGS)
    assert breaker.settings == SETTINGS.breaker_settings()


def test_an_image_that_comes_after_its_result_is_sent_then():
    fallback = make()
    step = student(fallback, 1, 0, image_at_hand=False, image_awaited=True)
    assert step.send and step.outputs == () and fallback.counts()['breaker.requests'] == 0
    assert fallback.on_late_image(step.sequence, 30 * MS)
    assert fallback.counts()['breaker.requests'] == 1
    out, = fallback.on_teacher(1, ANSWER, 60 * MS).outputs
    assert out.provenance.source.value == 'teacher' and out.provenance.sent == 'yes'
    assert not fallback.on_late_image(step.sequence, 70 * MS), 'it waits no more'


@pytest.mark.parametrize('overtaken', [True, False])
def test_an_image_that_never_comes_is_not_the_teachers_fault(overtaken):
    fallback = make()
    for i in range(4):
        step = student(fallback, i, 1000 * i, image_at_hand=False, image_awaited=True)
        now_ns = (1000 * i + (40 if overtaken else 100)) * MS
        out, = fallback.on_image_lost(step.sequence, now_ns) if overtaken else fallback.on_tick(now_ns)
        provenance = out.provenance
        assert (provenance.source.value, provenance.unverified, provenance.sent) == (
            'student-no-teacher', 'no_image', 'no')
        assert provenance.deadline_met and provenance.waited_ns == (40 if overtaken else 100) * MS
    assert fallback.breaker.state is BreakerState.CLOSED and fallback.counts()['breaker.missed'] == 0
    assert fallback.on_image_lost(step.sequence, 10**10) == (), 'said twice'


def test_no_probe_is_spent_on_an_image_that_is_not_there():
    fallback = make()
    for i in range(3):
        student(fallback, i, 1000 * i)
        fallback.on_tick((1000 * i + 100) * MS)
    assert fallback.breaker.state is not BreakerState.CLOSED
    step = student(fallback, 10, 60_000, image_at_hand=False, image_awaited=True)
    assert not step.send and step.decision.denied == 'teacher_unavailable'
    assert student(fallback, 11, 60_001).decision.probe


def test_the_price_sends_the_most_ambiguous_frames_of_a_hard_road():
    """With a fixed threshold that all frames reach, whichever comes first would be sent."""
    gate = GateSettings(share=0.2, audit_share=0.0, enter=0.5, leave=0.4, leave_frames=1, burst=3)
    hard = np.arange(400) % 5 == 3
    scores = np.random.default_rng(0).uniform(0.7, 0.75, 400) + 0.2 * hard
    hits = {}
    for price in (False, True):
        fallback = make(dataclasses.replace(SETTINGS, gate=dataclasses.replace(gate, refresh=price)),
                        SimpleNamespace(explain=lambda features: Ambiguity(scores[len(sent)], 'band')))
        sent = []
        while len(sent) < len(scores):
            sent.append(student(fallback, len(sent), 1000 * len(sent)).send)
            fallback.on_teacher(len(sent) - 1, ANSWER, (1000 * (len(sent) - 1) + 50) * MS)
        late = range(100, 400)
        hits[price] = np.mean([sent[i] for i in late if scores[i] > 0.85])
        assert np.mean(sent) <= 0.2 + 3 / 400
    assert hits[True] > 0.9 and hits[True] > 2 * hits[False]


def test_a_busy_teacher_is_not_asked():
    fallback = make(dataclasses.replace(SETTINGS, max_in_flight=2))
    steps = [student(fallback, i, 10 * i) for i in range(3)]
    assert [step.send for step in steps] == [True, True, False]
    assert steps[2].decision.denied == 'teacher_busy'
    fallback.on_teacher(0, ANSWER, 50 * MS)
    assert student(fallback, 3, 60).send, 'room again'
    outputs = fallback.on_tick(500 * MS)
    assert [o.provenance.unverified for o in outputs] == ['deadline', 'teacher_busy', 'deadline']
    assert student(fallback, 4, 600).send, 'what is past its deadline is not waited for'
