# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""SteadyTime: never backwards, and what was left before a step is left after it."""

from hypothesis import given
from hypothesis import strategies as st

from kd_perception.fallback.steady import SteadyTime


def test_counts_only_what_passes_forwards():
    time = SteadyTime()
    assert [time.advance(now) for now in (1000, 1005, 400, 410, 2000)] == [0, 5, 5, 15, 1605]


def test_a_step_back_leaves_the_time_that_was_left():
    time = SteadyTime()
    time.advance(1000)
    assert time.reading_at(50) == 1050
    time.advance(1020)
    time.advance(300)
    assert time.reading_at(50) == 330


def test_before_the_first_reading_elapsed_time_is_all_there_is():
    assert SteadyTime().reading_at(7) == 7


@given(st.lists(st.integers(-10**18, 10**18)))
def test_never_decreases(readings):
    time = SteadyTime()
    elapsed = [time.advance(now) for now in readings]
    assert elapsed == sorted(elapsed) and all(value >= 0 for value in elapsed)
    if readings:
        assert time.reading_at(elapsed[-1]) == readings[-1]
