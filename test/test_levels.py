# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Levels, sustained conditions, hysteresis and throttled logging under an injected clock."""

from kd_perception.levels import Finding, HeldLevel, Level, Report, summarise, Sustained
from kd_perception.nodes.shared.throttle import Throttle


def test_levels_have_the_numbers_of_diagnostic_status():
    assert [int(level) for level in (Level.OK, Level.WARN, Level.ERROR, Level.STALE)] == [0, 1, 2, 3]


def test_summary_names_the_worst_first():
    assert summarise([], 'fine') == (Level.OK, 'fine')
    assert summarise([Finding(Level.OK, 'x')], 'fine') == (Level.OK, 'fine')
    findings = [Finding(Level.WARN, 'slow'), Finding(Level.ERROR, 'dead'), Finding(Level.WARN, 'old')]
    assert summarise(findings, 'fine') == (Level.ERROR, 'dead; slow; old')


def test_sustained_needs_an_unbroken_time():
    sustained = Sustained(10)
    assert [sustained.update(t, c) for t, c in (
        (0, True), (9, True), (10, True), (11, False), (12, True), (21, True), (22, True))] == [
        False, False, True, False, False, False, True]


def test_sustained_starts_anew_when_the_clock_steps_back():
    sustained = Sustained(10)
    sustained.update(1000, True)
    assert not sustained.update(5, True) and sustained.update(15, True)


def test_a_level_rises_at_once_and_falls_late():
    held = HeldLevel(10)
    ok, warn, error = (Finding(level, level.name) for level in (Level.OK, Level.WARN, Level.ERROR))
    assert held.update(0, ok) == ok
    assert held.update(1, error) == error
    assert held.update(5, warn) == Finding(Level.ERROR, 'ERROR (recovering)')
    assert held.update(10, ok).level == Level.ERROR
    assert held.update(11, ok) == ok
    assert held.update(12, warn) == warn
    assert held.update(20, warn) == warn
    assert held.update(25, ok).level == Level.WARN, 'the hold counts from the last time it was seen'
    assert held.update(30, ok) == ok


def test_a_held_level_survives_a_clock_that_steps_back():
    held = HeldLevel(10)
    held.update(1000, Finding(Level.ERROR, 'x'))
    assert held.update(3, Finding(Level.OK, '')).level == Level.ERROR
    assert held.update(13, Finding(Level.OK, '')).level == Level.OK
    held.update(14, Finding(Level.ERROR, 'x'))
    held.reset()
    assert held.update(15, Finding(Level.OK, '')).level == Level.OK


def test_report_takes_more_values_in_front():
    report = Report('model', Level.OK, '', values=(('a', '1'),))
    assert report.with_values(('b', '2')).values == (('b', '2'), ('a', '1'))


def test_throttle_permits_one_a_period_and_key_and_counts_the_rest():
    now = [0]
    throttle = Throttle(10, lambda: now[0])
    assert throttle.permit('a') == 0 and throttle.permit('b') == 0
    assert [throttle.permit('a') for _ in range(3)] == [None, None, None]
    now[0] = 10
    assert throttle.permit('a') == 3 and throttle.permit('a') is None
    now[0] = 5      # a clock that steps back must not silence for good
    assert throttle.permit('a') == 1
