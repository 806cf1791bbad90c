# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Accounts of a long run: what is lost, doubled or out of order is found, whatever else goes on."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.benchmark.hybrid.soak import (
    Balance,
    balance,
    excusable,
    growth,
    LAST_WORDS_NS,
    lateness,
    match,
    percentiles_ms,
    Seen,
    shares,
    spans,
)

S, MS = 1_000_000_000, 1_000_000
STAMPS = st.lists(st.integers(0, 5), max_size=12)
TIMES = st.integers(0, 5 * S)


def seen(stamps, delay_ns=0):
    return [Seen(stamp, i * S + delay_ns) for i, stamp in enumerate(stamps)]


@given(STAMPS)
def test_a_faithful_fallback_has_a_clean_account(stamps):
    found = match(seen(stamps), seen(stamps, MS), set(stamps))
    assert sorted(found.pairs) == [(i, i) for i in range(len(stamps))]
    assert not (found.lost or found.doubled or found.unseen or found.invented or found.out_of_order)


@given(STAMPS, STAMPS, st.sets(st.integers(0, 5)))
def test_every_message_has_one_place_in_the_account(results, verified, published):
    found = match(seen(results), seen(verified), published)
    assert sorted([i for i, _ in found.pairs] + list(found.lost)) == list(range(len(results)))
    places = [j for _, j in found.pairs] + [*found.doubled, *found.unseen, *found.invented]
    assert sorted(places) == list(range(len(verified)))
    assert all(results[i] == verified[j] for i, j in found.pairs)
    assert all(verified[j] in published and verified[j] not in results for j in found.unseen)
    assert all(verified[j] not in published and verified[j] not in results for j in found.invented)
    # A result is lost exactly where its stamp has more results than answers.
    assert len(found.lost) == sum(max(0, results.count(s) - verified.count(s)) for s in set(results))
    assert len(found.doubled) == sum(
        max(0, verified.count(s) - max(1, results.count(s))) for s in set(verified))


@given(st.lists(st.integers(0, 50), unique=True, min_size=2, max_size=12), st.data())
def test_one_fault_is_found_for_what_it_is(stamps, data):
    place = data.draw(st.integers(0, len(stamps) - 1))
    without = stamps[:place] + stamps[place + 1:]
    assert match(seen(stamps), seen(without), stamps).lost == (place,)
    again = stamps[:place + 1] + stamps[place:]
    found = match(seen(stamps), seen(again), stamps)
    assert found.doubled == (place + 1,) and not found.lost and not found.out_of_order
    if place:
        swapped = [*stamps]
        swapped[place - 1:place + 1] = swapped[place - 1:place + 1][::-1]
        assert match(seen(stamps), seen(swapped), stamps).out_of_order == 1
    found = match(seen(stamps), seen([*stamps, 99]), stamps)
    assert found.invented == (len(stamps),)
    assert match(seen(without), seen(stamps), stamps).unseen == (place,)


def test_falling_and_repeated_stamps_are_no_disorder():
    stamps = [5, 6, 2, 3, 5, 6]
    found = match(seen(stamps), seen(stamps), set(stamps))
    assert len(found.pairs) == 6 and not found.out_of_order and not found.lost


def test_only_the_last_words_of_a_dying_student_are_excusable():
    results = [Seen(i, i * S) for i in range(1, 7)]
    found = match(results, results[:1], range(1, 7))
    assert found.lost == (1, 2, 3, 4, 5)
    assert excusable(results, found, [], []) == ()
    assert excusable(results, found, [], [4 * S]) == (2, 3)     # sent at 3 and 4 s
    assert excusable(results, found, [], [4 * S + LAST_WORDS_NS]) == (3, 4)
    assert excusable(results, found, [], [0]) == ()


def test_a_student_is_excusable_until_its_first_answer():
    results = [Seen(i, i * S) for i in range(1, 7)]
    found = match(results, [results[0], results[3]], range(1, 7))
    assert found.lost == (1, 2, 4, 5)
    born_ns = S + S // 2
    assert excusable(results, found, [born_ns], []) == (1, 2)
    assert excusable(results, found, [born_ns, 5 * S], []) == (1, 2, 4, 5)
    assert excusable(results, found, [0], []) == (), 'it had its first answer at once'


@given(st.lists(TIMES, max_size=4), st.lists(TIMES, max_size=4), STAMPS, STAMPS)
def test_only_what_is_lost_can_be_excused(births, deaths, results, verified):
    results, verified = seen(results), seen(verified)
    found = match(results, verified, ())
    assert set(excusable(results, found, births, deaths)) <= set(found.lost)


@pytest.mark.parametrize('counts, heard, lost, unreached', [
    ({'arbiter.students': 2, 'arbiter.outputs': 2}, 2, 0, 1),
    ({'arbiter.students': 3, 'arbiter.outputs': 2}, 2, 1, 0),   # it took the result and gave no answer
    ({'arbiter.students': 3, 'arbiter.outputs': 3}, 2, 1, 0),   # its answer got lost on the way to us
    ({}, 2, 1, 0)])
def test_an_excuse_needs_the_fallbacks_own_counts(counts, heard, lost, unreached):
    results = seen([1, 2, 3])
    found = balance(results, results[:2], {1, 2, 3}, [], [2 * S], counts, heard)
    assert (found.lost, found.unreached, bool(found.proof)) == (lost, unreached, bool(lost))
    assert found == Balance(3, 2, lost, unreached, 0, 0, 0, 0, found.proof)


@given(st.lists(st.integers(-10**9, 10**9), max_size=30), st.integers(1, 10**9), st.integers(0, 10**8))
def test_lateness_agrees_with_its_definition(waits, deadline, tolerance):
    found = lateness(waits, deadline, tolerance)
    assert found.count == len(waits) and found.met == sum(w <= deadline for w in waits)
    assert found.beyond == sum(w - deadline > tolerance for w in waits)
    assert found.worst_ns == max([0, *(w - deadline for w in waits)])


def test_percentiles():
    assert percentiles_ms([]) == {'count': 0}
    assert percentiles_ms(i * MS for i in range(101)) == {
        'count': 101, 'p50': 50, 'p95': 95, 'p99': 99, 'max': 100}


def test_the_slope_of_a_leak_over_several_lives():
    rng = np.random.default_rng(0)
    lives = [[(t, height + 3.0 * (t - begin) + rng.normal(0, 0.1)) for t in range(begin, end)]
             for begin, end, height in ((0, 60, 100), (70, 100, 80), (100, 101, 500))]
    assert growth(lives, 5) == pytest.approx(3, abs=0.05)
    # One line through all of it would fall, as the second life begins lower.
    assert growth([[point for life in lives[:2] for point in life]], 5) < 1


def test_the_warm_up_of_each_life_is_no_growth():
    life = [(float(t), min(t, 30) * 10.0) for t in range(100)]
    assert growth([life], 30) == pytest.approx(0, abs=1e-9)
    assert growth([life], 0) > 1
    assert growth([life], 70) is None, 'what is left says too little'
    assert growth([life], 98) is None and growth([[], [(0, 1)]], 0) is None and growth([], 0) is None


def test_shares():
    assert shares(['a', 'b', 'a', 'a']) == {
        'a': {'count': 3, 'share': 0.75}, 'b': {'count': 1, 'share': 0.25}}
    assert shares([]) == {}


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from('NDE')), min_size=1, max_size=20))
def test_spans_leave_no_gap_and_change_state_each_time(reports):
    reports.sort(key=lambda report: report[0])
    found = spans(reports, 100)
    assert found[0][0] == reports[0][0] and found[-1][1] == 100
    assert all(a[1] == b[0] and a[2] != b[2] for a, b in zip(found, found[1:]))
    assert spans([], 100) == []
