# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""NOMINAL, DEGRADED, ERROR: causes, precedence and hold."""

import pytest

from kd_perception.fallback.breaker import MS
from kd_perception.fallback.state import FallbackState, StateMonitor, StateSettings
from kd_perception.levels import Level

NOMINAL, DEGRADED, ERROR = FallbackState.NOMINAL, FallbackState.DEGRADED, FallbackState.ERROR
SETTINGS = StateSettings(camera_silence_ns=500 * MS, student_silence_ns=300 * MS, hold_ns=200 * MS)


def monitor(settings=SETTINGS):
    return StateMonitor(settings, 0)


def test_nominal_while_results_come():
    m = monitor()
    for now in range(0, 2000, 100):
        m.student(now * MS)
        report = m.update(now * MS)
        assert (report.state, report.level, report.changes) == (NOMINAL, Level.OK, 0)
    assert report.message == 'student and teacher answer' and report.for_ns == 1900 * MS


def test_camera_silent_from_the_start():
    m = monitor()
    m.update(0)
    assert m.update(500 * MS - 1).state is NOMINAL
    report = m.update(500 * MS)
    assert (report.state, report.level, report.message) == (ERROR, Level.ERROR, 'no image yet for 0.5 s')
    assert report.changes == 1


def test_camera_stops_after_images():
    m = monitor()
    m.student(1000 * MS)
    assert m.update(1500 * MS).message == 'no image for 0.5 s'


def test_student_silent_while_images_arrive():
    m = monitor()
    for now in range(100, 351, 50):
        m.image(now * MS)
    assert m.update(400 * MS - 1).state is NOMINAL
    report = m.update(400 * MS)
    assert (report.state, report.message) == (ERROR, 'images arrive, no result of the student for 0.3 s')
    m.student(450 * MS)
    assert m.update(650 * MS).state is NOMINAL
    m.image(700 * MS)
    m.image(900 * MS)
    assert m.update(999 * MS).state is NOMINAL      # silence counts from the first image without a result
    assert m.update(1000 * MS).state is ERROR


def test_a_slow_camera_is_no_silent_student():
    m = monitor()
    m.student(0)
    assert m.update(499 * MS).state is NOMINAL


def test_teacher_fault_degrades_and_an_error_outranks_it():
    m = monitor()
    m.student(0)
    report = m.update(0, 'teacher silent for 2.0 s')
    assert (report.state, report.level, report.message) == (DEGRADED, Level.WARN, 'teacher silent for 2.0 s')
    report = m.update(600 * MS, 'teacher silent for 2.6 s')
    assert report.state is ERROR and report.message == 'no image for 0.6 s; teacher silent for 2.6 s'


def test_worse_at_once_better_after_the_hold():
    m = monitor()
    m.student(0)
    assert m.update(0, 'x').state is DEGRADED
    m.student(100 * MS)
    report = m.update(199 * MS)
    assert report.state is DEGRADED and report.message == 'x (recovering)' and report.for_ns == 199 * MS
    report = m.update(200 * MS)
    assert (report.state, report.for_ns, report.changes) == (NOMINAL, 0, 2)


def test_without_hold():
    m = monitor(StateSettings(hold_ns=0))
    m.student(0)
    assert m.update(0, 'x').state is DEGRADED
    assert m.update(0).state is NOMINAL


def test_clock_steps_back():
    m = monitor()
    m.student(10_000 * MS)
    assert m.update(0).state is NOMINAL
    assert m.update(499 * MS).state is NOMINAL
    assert m.update(500 * MS).state is ERROR


def test_live_limits():
    m = monitor()
    m.update(400 * MS)
    m.configure(StateSettings(camera_silence_ns=100 * MS, student_silence_ns=100 * MS, hold_ns=0))
    assert m.update(400 * MS).state is ERROR
    m.student(401 * MS)
    assert m.update(401 * MS).state is NOMINAL


@pytest.mark.parametrize('change', [{'camera_silence_ns': 0}, {'student_silence_ns': 0}, {'hold_ns': -1}])
def test_settings_refuse(change):
    with pytest.raises(ValueError):
        StateSettings(**change)
