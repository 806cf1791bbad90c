# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Sliding windows against plain definitions."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.health.windows import RateWindow, ReasonCounter, SampleWindow, Summary

S = 1_000_000_000


def test_rate_of_a_regular_camera():
    window = RateWindow(5 * S)
    for i in range(100):
        window.add(i * S // 10)
    assert window.rate_hz(99 * S // 10) == pytest.approx(10)
    assert window.count(99 * S // 10) == 51     # both ends of 5 s


def test_rate_decays_when_the_camera_stops_and_ends_at_zero():
    window = RateWindow(5 * S)
    for i in range(50):
        window.add(i * S // 10)
    rates = [window.rate_hz(49 * S // 10 + t * S // 2) for t in range(12)]
    assert rates[0] == pytest.approx(10)
    assert all(a >= b for a, b in zip(rates, rates[1:])) and rates[2] < 9 and rates[-1] == 0


@pytest.mark.parametrize('times', [[], [S], [S, S, S]])
def test_no_rate_without_an_interval(times):
    window = RateWindow(5 * S)
    for t in times:
        window.add(t)
    assert window.rate_hz(S) == 0.0


def test_rate_window_is_bounded():
    window = RateWindow(5 * S, capacity=10)
    for t in range(10000):
        window.add(t)
    assert window.count(10000) == 10
    window.clear()
    assert window.count(10000) == 0


@given(st.lists(st.integers(-S, 10 * S), min_size=1, max_size=50))
def test_percentiles_are_numpys(values):
    window = SampleWindow(S)
    for value in values:
        window.add(0, value)
    clamped = np.maximum(values, 0)
    summary = window.summary(S)
    assert summary.count == len(values) and summary.max_ns == clamped.max()
    expected = np.percentile(clamped, [50, 95, 99])
    assert [summary.p50_ns, summary.p95_ns, summary.p99_ns] == pytest.approx(expected)


def test_samples_expire_and_empty_is_zero():
    window = SampleWindow(S, capacity=3)
    for i in range(5):
        window.add(i * S // 10, i)
    assert window.summary(S // 2).count == 3 and window.summary(S // 2).max_ns == 4
    assert window.summary(3 * S) == Summary()
    window.add(3 * S, 1)
    window.clear()
    assert window.summary(3 * S).count == 0


def test_reasons_have_totals_and_a_window():
    counter = ReasonCounter(S)
    counter.add(0, 'short_data')
    counter.add(S, 'bad_step')
    counter.add(S, 'bad_step')
    assert counter.totals() == {'bad_step': 2, 'short_data': 1}
    assert counter.recent(S + S // 2) == {'bad_step': 2}
    assert counter.recent(9 * S) == {} and counter.totals() == {'bad_step': 2, 'short_data': 1}
    counter.add(9 * S, 'bad_step')
    counter.clear_recent()
    assert counter.recent(9 * S) == {} and counter.totals()['bad_step'] == 3
