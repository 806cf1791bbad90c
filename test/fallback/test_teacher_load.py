# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""One teacher for several cameras: asked for what it can do in time, and no more of its time than allowed."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.fallback.ambiguity import FeatureExtractor, FeatureSettings
from kd_perception.fallback.arbiter import ArbiterSettings
from kd_perception.fallback.breaker import TeacherBreaker
from kd_perception.fallback.camera_fallback import CameraFallback, FallbackSettings
from kd_perception.fallback.gate import GateSettings
from kd_perception.fallback.merge import LabelMap
from kd_perception.fallback.scores import PeriodicScorer
from kd_perception.fallback.teacher_load import CREDIT_NS, LoadSettings, TeacherLoad

MS = 1_000_000
FOUND = Detections([[50, 50, 90, 90]], [0.8], [0])


class Teacher:
    """As `detector_node`: works on one image; of each camera it keeps the newest that waits, in turn."""

    def __init__(self, service_ns):
        self.service_ns, self.busy_ns = service_ns, 0
        self.work, self.waiting = None, {}

    def ask(self, camera, stamp, now):
        self.waiting[camera] = stamp
        self.begin(now)

    def begin(self, now):
        if self.work is None and self.waiting:
            camera = next(iter(self.waiting))
            self.work = (now + self.service_ns, camera, self.waiting.pop(camera))
            self.busy_ns += self.service_ns


def run(cameras, service_ms, seconds=8, share=0.5, **load):
    """Play cameras of 10 Hz in turn; return (totals of all outputs, teacher)."""
    limits = FallbackSettings(
        gate=GateSettings(share=share, audit_share=0.0), load=LoadSettings(**load),
        arbiter=ArbiterSettings(deadline_ns=150 * MS, reserve_ns=15 * MS))
    breaker, shared, teacher = TeacherBreaker(limits.breaker_settings()), TeacherLoad(limits.load), Teacher(
        service_ms * MS)
    logics = {name: CameraFallback(
        name, LabelMap.by_name(('Car',), ('Car',)), FeatureExtractor(FeatureSettings(), ('Car',)),
        PeriodicScorer(), 0, limits, breaker=breaker, load=shared) for name in map(str, range(cameras))}
    frames = sorted((i * 100 * MS + n * 100 * MS // cameras + 1, name)
                    for i in range(seconds * 10) for n, name in enumerate(logics))
    told = Counter()

    def take(outputs):
        for output in outputs:
            told[output.provenance.source.value] += 1
            told[output.provenance.unverified] += 1

    while frames or teacher.work or any(logic.next_deadline() for logic in logics.values()):
        events = [(frames[0][0], 2, frames[0][1])] if frames else []
        events += [(teacher.work[0], 0, teacher.work[1])] if teacher.work else []
        due = {name: logic.next_deadline() for name, logic in logics.items()}
        events += [(when, 1, name) for name, when in due.items() if when]
        now, kind, name = min(events)
        logic = logics[name]
        if kind == 0:
            stamp, teacher.work = teacher.work[2], None
            take(logic.on_teacher(stamp, FOUND, now).outputs)
            teacher.begin(now)
        elif kind == 1:
            take(logic.on_tick(now))
        else:
            frames.pop(0)
            step = logic.on_student(now, FOUND, now)
            take(step.outputs)
            if step.send:
                teacher.ask(name, now, now)
    assert sum(told[s] for s in ('student', 'teacher', 'student-no-teacher', 'student-late-teacher')) == (
        cameras * seconds * 10)
    return told, teacher


@pytest.mark.parametrize('cameras,service_ms', [(4, 40), (4, 60), (4, 120), (1, 60)])
def test_asking_never_makes_answers_late(cameras, service_ms):
    told, teacher = run(cameras, service_ms)
    assert told['student-late-teacher'] == 0
    wanted, possible = 0.5 * cameras * 80, 8_000 / service_ms
    assert told['teacher'] >= 0.75 * min(wanted, possible), 'and the teacher is not left idle'


def test_without_pace_it_does():
    """What this is for: asked for all that the shares allow, the teacher answers next to nothing in time."""
    paced, _ = run(4, 60)
    unpaced, _ = run(4, 60, pace=False)
    assert unpaced['student-late-teacher'] > 20 and unpaced['teacher'] < 0.8 * paced['teacher']


@pytest.mark.parametrize('share', [0.1, 0.3])
def test_the_share_of_time_is_kept_and_saved_for_later(share):
    seconds = 12
    told, teacher = run(4, 40, seconds, time_share=share)
    allowed = share * seconds * 1e9 + CREDIT_NS
    assert 0.8 * min(allowed, 0.75e9 * seconds) <= teacher.busy_ns <= allowed + 2 * 40 * MS
    assert told['student-late-teacher'] == 0 and told['time_budget'] > 0


def test_a_teacher_that_is_slower_or_silent_is_asked_again():
    load = TeacherLoad()
    assert load.service_ns is None and load.in_time('c', 0, 100)
    load.asked('a', 0)
    assert not load.in_time('c', 10, 100), 'one at a time until its time is known'
    load.answered('a', 40)
    load.answered('a', 50)      # to nothing
    assert load.service_ns == 40
    load.asked('a', 100)
    assert load.in_time('c', 110, 100) and not load.in_time('c', 110, 70)
    load.asked('b', 110)
    assert not load.in_time('c', 120, 100) and load.in_time('c', 120, 101)
    assert load.in_time('a', 120, 101) and not load.in_time('b', 120, 101), 'it would undo the one that waits'
    assert load.in_time('c', 211, 100), 'requests that are given up do not count'
    load.asked('a', 300)
    load.answered('a', 800)
    assert load.in_time('c', 810, 100), 'slower than the deadline, and nothing to do: it may have changed'


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from('aqx'), st.integers(-50, 300)), max_size=60))
def test_memory_is_bounded_and_credit_within_limits(events):
    load, now = TeacherLoad(LoadSettings(time_share=0.5)), 0
    for kind, step in events:
        now += step * MS
        if load.in_time('c', now, 100 * MS) and kind == 'q':
            load.asked('c', now)
        elif kind == 'a':
            load.answered('c', now)
        assert load.credit_ns <= CREDIT_NS and len(load._asked) <= len(events)
        assert load.service_ns is None or load.service_ns >= 0
