# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a camera's fallback and its teacher tell the operator, under an injected clock."""

import dataclasses

import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.fallback.breaker import BreakerSettings, TeacherBreaker
from kd_perception.fallback.provenance import Output, Provenance, Source
from kd_perception.fallback.state import FallbackState, StateReport
from kd_perception.health.fallback_monitor import FallbackMonitor, recorder_report, SPAN_NS, teacher_report
from kd_perception.levels import Level

MS, S = 1_000_000, 1_000_000_000
NOMINAL = StateReport(FallbackState.NOMINAL, 'student and teacher answer', 5 * S, 0)
DEGRADED = StateReport(FallbackState.DEGRADED, 'teacher silent for 2.1 s, breaker open', S, 3)
FAILED = StateReport(FallbackState.ERROR, 'no image for 1.0 s', 0, 4)
CLEAR = Provenance(Source.STUDENT, 'clear', 0.1, False, False, 'no', '', 2, 1 * MS, None, None, True)


def output(**changes):
    return Output(0, 1, None, Detections.empty(), dataclasses.replace(CLEAR, **changes))


@pytest.fixture
def clock():
    return [77 * S]


@pytest.fixture
def monitor(clock):
    return FallbackMonitor('front', '/robot/front', lambda: clock[0])


def told(monitor, state=NOMINAL, counts=None, lateness_ns=0):
    report = monitor.report(state, counts or {}, lateness_ns)
    values = dict(report.values)
    assert len(values) == len(report.values), 'each key once'
    assert all(isinstance(text, str) for pair in report.values for text in pair)
    return report, values


def test_before_anything_came(monitor):
    report, values = told(monitor)
    assert (report.name, report.hardware_id) == ('camera front', '/robot/front')
    assert (report.level, report.message) == (Level.OK, 'NOMINAL: student and teacher answer')
    assert values['teacher_share'] == 'unknown' and values['output_rate_hz'] == '0.00'
    assert values['waited.max_ms'] == '0.000' and values['state_s'] == '5.0'


@pytest.mark.parametrize('state,level', [(NOMINAL, Level.OK), (DEGRADED, Level.WARN), (FAILED, Level.ERROR)])
def test_the_state_is_told_with_its_reason(monitor, state, level):
    report, values = told(monitor, state)
    assert report.level == level and report.message == f'{state.state.value}: {state.message}'
    assert values['state'] == state.state.value and values['state_changes'] == str(state.changes)


def test_an_inactive_node_has_no_state_and_no_fault(monitor):
    monitor.dropped('bad_image')
    report, values = told(monitor, None)
    assert (report.level, report.message) == (Level.OK, 'inactive')
    assert 'state' not in values and values['dropped.bad_image'] == '1'


def test_rates_shares_and_times(monitor, clock):
    for i in range(50):
        monitor.image()
        monitor.student()
        if i % 5 == 0:
            monitor.output(output(source=Source.TEACHER, waited_ns=90 * MS, teacher_ns=80 * MS))
        elif i % 10 == 1:
            monitor.output(output(source=Source.MERGED, waited_ns=70 * MS, teacher_ns=60 * MS))
        elif i % 10 == 2:
            monitor.output(output(source=Source.STUDENT_LATE_TEACHER, unverified='deadline',
                                  waited_ns=150 * MS))
        else:
            monitor.output(output())
        clock[0] += 100 * MS
    _, values = told(monitor, counts={'gate.sent': 20, 'arbiter.outputs': 50}, lateness_ns=1_250_000)
    for key in ('image_rate_hz', 'student_rate_hz', 'output_rate_hz'):
        assert float(values[key]) == pytest.approx(10, abs=0.1)
    assert values['teacher_share'] == '0.300', 'of all outputs, those with a word of the teacher'
    assert values['waited.p50_ms'] == '1.000' and values['waited.max_ms'] == '150.000'
    assert float(values['teacher.p50_ms']) == 80 and values['teacher.max_ms'] == '80.000'
    assert values['worst_lateness_ms'] == '1.250'
    assert values['gate.sent'] == '20' and values['arbiter.outputs'] == '50'
    clock[0] += SPAN_NS + S
    _, values = told(monitor)
    assert values['teacher_share'] == 'unknown' and values['image_rate_hz'] == '0.00'
    assert values['waited.max_ms'] == '0.000', 'figures are of the recent past'


@pytest.mark.parametrize('state,level', [
    (NOMINAL, Level.WARN), (DEGRADED, Level.WARN), (FAILED, Level.ERROR)])
def test_unusable_input_is_a_warning_for_a_while(monitor, clock, state, level):
    for _ in range(3):
        monitor.dropped('bad_teacher_answer')
    monitor.dropped('bad_image')
    report, values = told(monitor, state)
    assert report.level == level and report.message.endswith(
        '; unusable input in the last 10 s: bad_image 1, bad_teacher_answer 3')
    assert values['dropped.bad_teacher_answer'] == '3' and values['state'] == state.state.value
    clock[0] += SPAN_NS + S
    report, values = told(monitor, state)
    assert 'unusable' not in report.message and values['dropped.bad_teacher_answer'] == '3'
    assert report.level == state.level


def test_a_flood_costs_bounded_memory(monitor, clock):
    for _ in range(20_000):
        monitor.image()
        monitor.dropped('bad_image')
        clock[0] += 1
    report, values = told(monitor)
    assert values['dropped.bad_image'] == '20000' and report.level == Level.WARN


# --- the teacher, which all cameras share ---

def teacher(breaker, fault='', active=True, wanted=True, now_ns=0):
    report = teacher_report(breaker, (('scorer', 'band'),), fault, active, wanted, now_ns)
    assert report.name == 'teacher' and report.values[0] == ('scorer', 'band')
    return report.level, report.message, dict(report.values)


def test_the_teachers_report():
    breaker = TeacherBreaker(BreakerSettings(silence_ns=2 * S))
    assert teacher(breaker)[:2] == (Level.OK, 'not asked yet')
    assert teacher(breaker, fault='m.onnx: no such model file', active=False)[:2] == (
        Level.ERROR, 'm.onnx: no such model file')
    assert teacher(breaker, active=False)[:2] == (Level.OK, 'inactive')
    assert teacher(breaker, wanted=False)[:2] == (Level.WARN, 'switched off')
    breaker.sent('a', 0)
    breaker.answered()
    level, message, values = teacher(breaker)
    assert (level, message, values['breaker'], values['breaker.answered']) == (
        Level.OK, 'answers', 'closed', '1')
    breaker.sent('b', 0)
    breaker.sent('c', 0)
    assert teacher(breaker, now_ns=S)[:2] == (Level.OK, 'answers')
    # The report itself notices the silence: nothing else may be there to do so.
    level, message, values = teacher(breaker, now_ns=3 * S)
    assert (level, message) == (Level.WARN, 'teacher silent for 3.0 s, breaker open')
    assert values['breaker'] == 'open' and values['breaker.opened'] == '1'


class _Recorder:
    def __init__(self, problem):
        self.problem = lambda: problem
        self.counts = lambda: {'recorded': 3, 'lost': 1}


def test_the_recorders_report():
    assert recorder_report(None) == ()
    report, = recorder_report(_Recorder(''))
    assert (report.name, report.level, report.message) == ('recorder', Level.OK, 'records')
    report, = recorder_report(_Recorder('disk is full'))
    assert (report.level, report.message) == (Level.WARN, 'disk is full')
    assert dict(report.values) == {'recorded': '3', 'lost': '1'}
