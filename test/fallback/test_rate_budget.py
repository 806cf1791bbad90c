# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Token buckets: the bound holds in every window, and what it allows is really given."""

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from kd_perception.fallback.rate_budget import RateBucket, ShareBucket

S = 1_000_000_000


def greedy(bucket, frames):
    """Which of so many frames pass if all want to."""
    passed = []
    for _ in range(frames):
        bucket.frame()
        passed.append(bucket.has_token())
        if passed[-1]:
            bucket.spend()
    return passed


def test_ten_tenths_are_one_frame():
    passed = greedy(ShareBucket(0.1), 31)
    assert [i for i, p in enumerate(passed) if p] == [0, 10, 20, 30]


@pytest.mark.parametrize('share,passes', [(0.0, 0), (1.0, 100), (0.25, 25)])
def test_share_is_given_in_full(share, passes):
    assert sum(greedy(ShareBucket(share), 100)) == passes


def test_burst_after_a_quiet_time():
    bucket = ShareBucket(0.1, burst=3)
    assert greedy(bucket, 5) == [True, True, True, False, False]
    for _ in range(1000):
        bucket.frame()
    assert bucket.tokens == 3 and greedy(bucket, 5) == [True, True, True, False, False]


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1), st.floats(1, 5), st.lists(st.booleans(), max_size=80))
def test_no_window_exceeds_the_share(share, burst, wants):
    bucket, passed = ShareBucket(share, burst), []
    for want in wants:
        bucket.frame()
        passed.append(want and bucket.has_token())
        if passed[-1]:
            bucket.spend()
    for start in range(len(passed)):
        for end in range(start + 1, len(passed) + 1):
            assert sum(passed[start:end]) <= share * (end - start) + burst + 1e-6


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 50), st.floats(1, 4), st.lists(st.integers(0, S // 2), max_size=60))
def test_no_window_exceeds_the_rate(rate_hz, burst, gaps):
    bucket, now, times = RateBucket(rate_hz, burst), 0, []
    for gap in gaps:
        now += gap
        bucket.advance(now)
        if bucket.has_token():
            bucket.spend()
            times.append(now)
    for i, start in enumerate(times):
        for j in range(i, len(times)):
            assert j - i + 1 <= rate_hz * (times[j] - start) / S + burst + 1e-6


def test_rate_is_given_in_full():
    bucket, passed = RateBucket(2.0), 0
    for now in range(0, 10 * S + 1, S // 10):
        bucket.advance(now)
        if bucket.has_token():
            bucket.spend()
            passed += 1
    assert passed == 21


def test_clock_steps_earn_nothing_and_a_leap_no_more_than_the_burst():
    bucket = RateBucket(1.0, burst=2)
    bucket.advance(100 * S)
    bucket.spend()
    bucket.spend()
    bucket.advance(0)
    assert bucket.tokens == 0
    bucket.advance(1 * S)
    assert bucket.tokens == 1
    bucket.advance(10**6 * S)
    assert bucket.tokens == 2


def test_no_rate_is_no_bound_and_zero_passes_nothing():
    free = RateBucket(None)
    for _ in range(100):
        assert free.has_token()
        free.spend()
    shut = RateBucket(0.0)
    shut.advance(0)
    shut.advance(100 * S)
    assert not shut.has_token()


def test_largest_burst():
    assert ShareBucket(0.1, 1000).tokens == 1000


def test_reconfiguration_keeps_what_fits():
    bucket = ShareBucket(0.5, burst=5)
    greedy(bucket, 1)
    assert bucket.tokens == 4           # the gain of a full bucket is lost
    bucket.configure(0.1, 2)
    assert bucket.tokens == 2
    bucket.configure(0.1, 5)
    assert bucket.tokens == 2           # room is not tokens
    bucket.configure(0.0, 5)
    assert bucket.tokens == 0
    rate = RateBucket(10.0, 5)
    rate.configure(10.0, 2)
    assert rate.tokens == 2
    rate.configure(0.0, 2)
    assert not rate.has_token()


@pytest.mark.parametrize('make', [
    lambda: ShareBucket(-0.1), lambda: ShareBucket(1.1), lambda: ShareBucket(0.1, 0.5),
    lambda: ShareBucket(0.1, float('nan')), lambda: ShareBucket(float('nan')), lambda: RateBucket(-1.0),
    lambda: RateBucket(float('inf')), lambda: RateBucket(1.0, 0), lambda: RateBucket(1.0, 1001)])
def test_refuses(make):
    with pytest.raises(ValueError, match='expected'):
        make()
