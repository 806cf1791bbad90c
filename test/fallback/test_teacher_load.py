# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""One teacher for several cameras: asked for what it can do in time, and no more of its time than allowed."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.fallback.ambiguity import FeatureExtractor, FeatureSettings
from kd_perception.fallback.arbiter import ArbiterSettings
from kd_perception.fallback.breaker import TeacherBreaker
from kd_perception.fallback.camera_fallback import CameraFallback, FallbackSettings
from kd_perception.fallback.flow import flow_image
from kd_perception.fallback.gate import GateSettings
from kd_perception.fallback.merge import LabelMap
from kd_perception.fallback.provenance import Source
from kd_perception.fallback.scores import PeriodicScorer
from kd_perception.fallback.teacher_load import CREDIT_NS, LoadSettings, TeacherLoad
from kd_perception.fallback.waiting import STALE_NS, WaitingFrames

MS = 1_000_000
FOUND = Detections([[50, 50, 90, 90]], [0.8], [0])
NOISE = np.random.default_rng(0).integers(0, 255, (18, 24), dtype=np.uint8)
VIEW = flow_image(np.kron(NOISE, np.ones((8, 8), np.uint8)))


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


def run(cameras, service_ms, seconds=8, share=0.5, hold=False, **load):
    """
    Play cameras of 10 Hz in turn; return (totals of all outputs, teacher).

    :param hold: frames wait for a teacher that is busy, and answers are carried forward.
    """
    limits = FallbackSettings(
        gate=GateSettings(share=share, audit_share=0.0), load=LoadSettings(**load),
        arbiter=ArbiterSettings(deadline_ns=150 * MS, reserve_ns=15 * MS))
    breaker, shared, teacher = TeacherBreaker(limits.breaker_settings()), TeacherLoad(limits.load), Teacher(
        service_ms * MS)
    waiting, stamps = WaitingFrames(), {}
    logics = {name: CameraFallback(
        name, LabelMap.by_name(('Car',), ('Car',)), FeatureExtractor(FeatureSettings(), ('Car',)),
        PeriodicScorer(), 0, limits, breaker=breaker, load=shared, waiting=waiting)
        for name in map(str, range(cameras))}
    frames = sorted((i * 100 * MS + n * 100 * MS // cameras + 1, name)
                    for i in range(seconds * 10) for n, name in enumerate(logics))
    told = Counter()

    def take(outputs):
        for output in outputs:
            told[output.provenance.source.value] += 1
            told[output.provenance.unverified] += 1

    def send(frame):
        stamp = stamps[frame.camera, frame.sequence]
        assert now - stamp <= STALE_NS
        told['asked later'] += 1
        assert logics[frame.camera].ask_waiting(frame, stamp, now)
        teacher.ask(frame.camera, stamp, now)
        return True

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
            if hold and logic.may_ask_waiting(now):
                waiting.ask(now, send)
        elif kind == 1:
            take(logic.on_tick(now))
        else:
            frames.pop(0)
            step = logic.on_student(now, FOUND, now, view=(lambda: VIEW) if hold else None)
            stamps[name, step.sequence] = now
            take(step.outputs)
            if step.send:
                teacher.ask(name, now, now)
    assert sum(told[s.value] for s in Source) == (
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


@pytest.mark.parametrize('service_ms,helped', [(220, 0.6), (400, 0.25)])
def test_a_teacher_slower_than_the_deadline_works_all_the_time(service_ms, helped):
    """Its answers are carried forward; no output waits for them, or next to none."""
    told, teacher = run(4, service_ms, seconds=10, hold=True)
    assert teacher.busy_ns >= 0.9 * 10e9, 'it is never left idle for long'
    assert told['asked later'] >= 0.8 * teacher.busy_ns / (service_ms * MS)
    assert told['deadline'] <= 2 and told['carried'] > helped * 400


@given(st.lists(st.tuples(st.sampled_from('abc'), st.integers(0, 9), st.integers(0, 150)), max_size=30))
def test_the_most_worthy_frame_that_is_not_stale_is_asked_first(offers):
    waiting, kept, now = WaitingFrames(), {}, 0
    for sequence, (camera, worth, step) in enumerate(offers):
        now += step * MS
        kept = {key: item for key, item in kept.items() if now - item[2] <= STALE_NS}
        best = camera not in kept or kept[camera][0] <= worth
        assert waiting.offer(camera, sequence, worth, now) == best
        if best:
            kept[camera] = worth, sequence, now
    seen = []
    while waiting.ask(now, lambda frame: seen.append(frame) or frame.worth > 4):
        pass
    assert {f.sequence for f in seen} >= {item[1] for item in kept.values() if item[0] > 4}
    assert [f.worth for f in seen] == sorted((item[0] for item in kept.values()), reverse=True)[:len(seen)]
    counts = waiting.counts
    assert counts['offered'] == len(offers) and counts['asked'] == sum(f.worth > 4 for f in seen)


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
    assert not load.idle(800) and load.idle(111 + 1000 * MS), 'requests that are given up do not count'
    load.asked('a', 2000 * MS)
    assert not load.idle(2000 * MS)
    load.answered('a', 2500 * MS)
    assert load.in_time('c', 2510 * MS, 100 * MS), 'slow, and nothing to do: it may have changed'
    load.asked('b', 2520 * MS)
    assert load.service_ns > 100 * MS and not load.in_time('c', 2650 * MS, 100 * MS)
    assert not load.idle(3550 * MS), 'a slow one is waited for'


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
