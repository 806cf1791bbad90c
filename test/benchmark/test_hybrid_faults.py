# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The plan of faults, and that each is carried out and taken back."""

import random
import types

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from kd_perception.benchmark.hybrid.faults import (
    DURATIONS_S,
    Fault,
    garbage,
    Injector,
    OF_A_PROCESS,
    plan,
    STAMPS_BACK,
    STUDENT_KILL,
    TEACHER_KILL,
    TEACHER_STOP,
    wrong_stamp,
)
from kd_perception.errors import BagError
from kd_perception.messages.wire import read_result

CAMERAS = ('camera00', 'camera01')
LABELS = ('Car', 'Pedestrian')


@given(st.sampled_from(['some', 'many']), st.floats(5, 600), st.integers(0, 1000))
def test_a_plan_is_repeatable_and_lies_within_the_run(level, seconds, seed):
    faults = plan(level, seconds, CAMERAS, seed)
    assert faults == plan(level, seconds, CAMERAS, seed) and len(faults) >= 3
    assert all(a.begin_s <= b.begin_s for a, b in zip(faults, faults[1:]))
    assert all(0.05 * seconds < f.begin_s <= f.end_s <= 0.96 * seconds for f in faults)
    assert all((f.camera is None) == (f.kind in OF_A_PROCESS) for f in faults)
    assert all((f.amount > 0) == (f.kind == STAMPS_BACK) for f in faults)


def test_levels_and_seeds_differ_and_a_long_run_has_every_kind():
    assert plan('none', 300, CAMERAS, 0) == []
    assert len(plan('many', 300, CAMERAS, 0)) > len(plan('some', 300, CAMERAS, 0))
    assert plan('some', 300, CAMERAS, 0) != plan('some', 300, CAMERAS, 1)
    assert {fault.kind for fault in plan('some', 90, CAMERAS, 0)} == set(DURATIONS_S)


class Nodes:
    def __init__(self):
        self.log, self.alive = [], {'student': True, 'teacher': True}

    def running(self, name):
        return self.alive[name]

    def kill(self, name):
        self.alive[name] = False
        self.log.append(f'kill {name}')

    def start(self, name):
        self.alive[name] = True
        self.log.append(f'start {name}')

    def stop_clock(self, name):
        self.log.append(f'stop {name}')

    def resume(self, name):
        self.log.append(f'resume {name}')


def injector(faults, nodes):
    cameras = {name: types.SimpleNamespace(name=name, paused=False, factor=1.0, offset_ns=0,
                                           last_stamp_ns=10**18) for name in CAMERAS}
    sent = []
    return Injector(faults, nodes, cameras, lambda *a: sent.append(a), LABELS, 0), cameras, sent


def idle(cameras):
    return all((c.paused, c.factor, c.offset_ns) == (False, 1.0, 0) for c in cameras.values())


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(0.05, 3))
def test_all_is_as_before_when_the_run_is_over(seed, step_s):
    nodes = Nodes()
    faults = plan('many', 60, CAMERAS, seed)
    target, cameras, sent = injector(faults, nodes)
    now_s, disturbed = 0.0, False
    while now_s < 60:
        target.step(now_s)
        disturbed |= not idle(cameras)
        now_s += step_s
    target.finish(now_s)
    assert idle(cameras) and nodes.alive == {'student': True, 'teacher': True}
    assert disturbed and nodes.log
    for first, second in (('kill student', 'start student'), ('kill teacher', 'start teacher'),
                          ('stop teacher', 'resume teacher')):
        assert nodes.log.count(first) == nodes.log.count(second)
    assert all(fault.end_s >= fault.begin_s for fault in faults)


def test_a_process_has_one_fault_at_a_time():
    nodes = Nodes()
    faults = [Fault(kind, None, *times) for kind, times in (
        (TEACHER_STOP, (1, 4)), (TEACHER_KILL, (2, 3)), (STUDENT_KILL, (2, 3)))]
    target, _, _ = injector(faults, nodes)
    for now_s in (1, 2, 3, 4):
        target.step(now_s)
    assert nodes.log == ['stop teacher', 'kill student', 'start student', 'resume teacher']
    assert [bool(fault.skipped) for fault in faults] == [False, True, False]


def test_what_had_no_time_is_said_to_be_skipped():
    nodes = Nodes()
    faults = [Fault(TEACHER_STOP, None, 1, 40), Fault(STUDENT_KILL, None, 30, 32)]
    target, _, _ = injector(faults, nodes)
    target.step(1)
    target.finish(10)
    assert nodes.log == ['stop teacher', 'resume teacher']
    assert faults[0].end_s == 10 and faults[1].skipped == 'the run was over'


@pytest.mark.parametrize('seed', range(50))
def test_wrong_stamps_are_well_formed_and_garbage_is_not_an_answer(seed):
    dice, stamp_ns = random.Random(seed), 1_700_000_000_123_456_789
    result = read_result(wrong_stamp(dice, stamp_ns, 'camera00', LABELS), LABELS, 100)
    assert result.stamp_ns != stamp_ns and len(result.detections) == 3 and not result.rejected
    raw = garbage(dice, stamp_ns, 'camera00', LABELS)
    assert len(raw) >= 4
    try:
        read_result(raw, LABELS, 100)
    except BagError:
        pass
