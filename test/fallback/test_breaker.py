# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The circuit breaker: what opens it, what closes it, and what it says."""

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from kd_perception.fallback.breaker import (
    BreakerSettings,
    BreakerState,
    LATE_ANSWERS,
    MS,
    TeacherBreaker,
    UNUSABLE_ANSWERS,
)

SETTINGS = BreakerSettings(silence_ns=1000 * MS, silent_requests=2, window=4, misses=3,
                           probe_deadline_ns=100 * MS, probe_interval_ns=400 * MS,
                           probe_interval_max_ns=1000 * MS, successes=2)


def opened(now=0):
    """A breaker that opened at `now` ms."""
    breaker = TeacherBreaker(SETTINGS)
    for i in range(3):
        breaker.missed(i, now * MS)
    assert breaker.state is BreakerState.OPEN
    return breaker


def test_starts_closed():
    breaker = TeacherBreaker(SETTINGS)
    assert breaker.available(0) and not breaker.probe_due(0)
    assert (breaker.state, breaker.reason) == (BreakerState.CLOSED, '')


def test_misses_in_the_window_open():
    breaker = TeacherBreaker(SETTINGS)
    for i, good in enumerate([False, True, False, True, False, True, False, False]):
        breaker.sent(i, i * MS)
        breaker.answered() if good else breaker.missed(i, i * MS)
        # The window holds four: three misses are among them for the first time at the very end.
        assert breaker.available(i * MS) == (i < 7)
    assert breaker.reason == '3 of the last 4 requests had no good answer in time'
    assert breaker.counts['opened'] == 1 and breaker.counts['missed'] == 5


def test_silence_opens_after_its_time():
    breaker = TeacherBreaker(SETTINGS)
    breaker.sent('a', 0)
    breaker.sent('b', 900 * MS)
    assert breaker.available(1000 * MS - 1)
    breaker.tick(1000 * MS)
    assert breaker.state is BreakerState.OPEN and breaker.reason == 'teacher silent for 1.0 s'
    breaker.tick(2500 * MS)
    assert breaker.reason == 'teacher silent for 2.5 s'


def test_one_lost_message_is_no_outage():
    breaker = TeacherBreaker(SETTINGS)
    breaker.sent('a', 0)
    assert breaker.available(10_000 * MS)


def test_silence_counts_from_the_first_request_after_the_last_answer():
    breaker = TeacherBreaker(SETTINGS)
    for now in (0, 100):
        breaker.sent(now, now * MS)
    breaker.answered()
    assert breaker.available(5000 * MS)         # nothing was asked since
    for now in (5000, 5100):
        breaker.sent(now, now * MS)
    breaker.late()                              # late, but a sign of life
    assert breaker.available(7000 * MS)
    assert breaker.counts['answered'] == breaker.counts['late'] == 1 and breaker.counts['requests'] == 4


def test_an_answer_in_time_outweighs_a_silence_that_nobody_noticed():
    breaker = TeacherBreaker(SETTINGS)
    for now in (0, 950):
        breaker.sent(now, now * MS)
    breaker.answered()
    assert breaker.available(1000 * MS)


def test_open_until_probes_succeed():
    breaker = opened()
    assert not breaker.available(0) and not breaker.probe_due(399 * MS)
    assert breaker.probe_due(400 * MS)
    breaker.sent('p', 400 * MS, probe=True)
    assert breaker.state is BreakerState.HALF_OPEN and not breaker.available(400 * MS)
    assert not breaker.probe_due(401 * MS)      # one at a time
    breaker.probe_answered('p', 450 * MS)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.probe_due(849 * MS) and breaker.probe_due(850 * MS)
    breaker.sent('q', 850 * MS, probe=True)
    breaker.probe_answered('q', 900 * MS)
    assert (breaker.state, breaker.reason) == (BreakerState.CLOSED, '') and breaker.available(900 * MS)
    assert breaker.counts == {'requests': 2, 'answered': 2, 'missed': 3, 'late': 0, 'probes': 2,
                              'probes_failed': 0, 'opened': 1, 'closed': 1}
    # A fresh start: old misses are forgotten.
    breaker.missed('x', 901 * MS)
    breaker.missed('y', 902 * MS)
    assert breaker.available(903 * MS)


def test_failed_probes_come_less_and_less_often():
    breaker, now, gaps = opened(), 400, []
    for i in range(4):
        breaker.sent(i, now * MS, probe=True)
        failed = now + 100
        breaker.tick(failed * MS - 1)
        assert breaker.state is BreakerState.HALF_OPEN
        breaker.tick(failed * MS)
        assert breaker.state is BreakerState.OPEN
        now = next(t for t in range(failed, failed + 3000) if breaker.probe_due(t * MS))
        gaps.append(now - failed)
    assert gaps == [800, 1000, 1000, 1000]
    assert breaker.counts['probes_failed'] == 4
    breaker.sent('p', now * MS, probe=True)
    breaker.probe_answered('p', now * MS)
    assert breaker.probe_due((now + 400) * MS)      # from the first success on, at the short interval


def test_a_failure_in_between_starts_the_count_anew():
    breaker = opened()
    for ticket, sent, answered in (('a', 400, 450), ('b', 850, None), ('c', 2000, 2050)):
        breaker.sent(ticket, sent * MS, probe=True)
        if answered:
            breaker.probe_answered(ticket, answered * MS)
        else:
            breaker.tick((sent + 100) * MS)
            assert breaker.state is BreakerState.OPEN
    assert not breaker.available(2050 * MS)
    breaker.sent('d', 2450 * MS, probe=True)
    breaker.probe_answered('d', 2500 * MS)
    assert breaker.available(2500 * MS)


def test_a_late_probe_has_failed_and_tells_why():
    breaker = opened()
    breaker.sent('p', 400 * MS, probe=True)
    breaker.probe_answered('p', 500 * MS)       # at its deadline: late, though no tick came
    assert breaker.state is BreakerState.OPEN and breaker.reason == LATE_ANSWERS
    assert breaker.counts['probes_failed'] == 1 and breaker.counts['late'] == 1


def test_answers_that_cannot_be_used():
    breaker = TeacherBreaker(SETTINGS)
    for i in range(3):
        breaker.sent(i, i * MS)
        breaker.missed(i, i * MS, unusable=True)
    assert not breaker.available(3 * MS)
    breaker.sent('p', 500 * MS, probe=True)
    breaker.missed('p', 510 * MS, unusable=True)
    assert breaker.reason == UNUSABLE_ANSWERS and breaker.counts['probes_failed'] == 1
    breaker.tick(9000 * MS)
    assert breaker.reason == UNUSABLE_ANSWERS       # it is not silent


def test_leftovers_from_before_the_opening_change_nothing():
    breaker = opened()
    breaker.answered()
    breaker.missed('old', 20 * MS)
    assert breaker.state is BreakerState.OPEN and breaker.counts['opened'] == 1
    breaker.sent('p', 400 * MS, probe=True)
    breaker.probe_answered('another', 410 * MS)
    assert breaker.state is BreakerState.HALF_OPEN and breaker.counts['late'] == 1


def test_clock_that_steps_back_opens_nothing_and_loses_no_probe():
    breaker = TeacherBreaker(SETTINGS)
    breaker.sent('a', 10_000 * MS)
    breaker.sent('b', 10_500 * MS)
    assert breaker.available(0) and breaker.available(499 * MS)
    assert not breaker.available(500 * MS)
    assert breaker.probe_due(900 * MS)


def test_live_reconfiguration():
    breaker = TeacherBreaker(SETTINGS)
    breaker.missed(0, 0)
    breaker.missed(1, 0)
    breaker.configure(BreakerSettings(misses=3, window=8, probe_interval_ns=100 * MS))
    breaker.missed(2, 0)
    assert not breaker.available(0) and breaker.probe_due(100 * MS)
    breaker.sent('p', 100 * MS, probe=True)
    breaker.tick(400 * MS)
    breaker.configure(BreakerSettings(probe_interval_ns=5 * MS, probe_interval_max_ns=20 * MS))
    breaker.sent('q', 1000 * MS, probe=True)
    breaker.tick(1150 * MS)
    assert not breaker.probe_due(1160 * MS - 1) and breaker.probe_due(1160 * MS)


@pytest.mark.parametrize('change', [
    {'misses': 0}, {'misses': 11}, {'window': 1001}, {'silence_ns': 0}, {'probe_deadline_ns': 0},
    {'probe_interval_ns': 0}, {'probe_interval_max_ns': 1}, {'successes': 0}, {'silent_requests': 0}])
def test_settings_refuse(change):
    with pytest.raises(ValueError):
        BreakerSettings(**change)


KINDS = ['sent', 'probe', 'answered', 'probe_answered', 'late', 'missed', 'bad', 'tick']
EVENT = st.tuples(st.sampled_from(KINDS), st.integers(-2000, 2000), st.integers(0, 3))


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENT, max_size=60))
def test_any_events(events):
    """A reason if and only if open; a teacher that answers from now on is taken back."""
    breaker, now = TeacherBreaker(SETTINGS), 0
    for kind, step, ticket in events:
        now += step * MS
        if kind == 'probe':
            if breaker.probe_due(now):
                breaker.sent(ticket, now, probe=True)
        elif kind == 'bad':
            breaker.missed(ticket, now, unusable=True)
        elif kind in ('probe_answered', 'missed', 'sent'):
            getattr(breaker, kind)(ticket, now)
        elif kind == 'tick':
            breaker.tick(now)
        else:
            getattr(breaker, kind)()
        is_open = not breaker.available(now)
        assert bool(breaker.reason) == (breaker.state is not BreakerState.CLOSED) == is_open
    for i in range(200):
        now += 50 * MS
        if breaker.probe_due(now):
            breaker.sent(('healthy', i), now, probe=True)
            breaker.probe_answered(('healthy', i), now + MS)
    assert breaker.available(now + MS)
