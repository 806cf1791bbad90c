# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The gate: hysteresis, audits, budget, and what is said about each frame."""

import dataclasses
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.fallback.gate import (
    AUDIT_BURST,
    DENIALS,
    Gate,
    GateSettings,
    NO_IMAGE,
    RATE_SPENT,
    SHARE_SPENT,
    TEACHER_OFF,
    TEACHER_OUT,
)
from kd_perception.fallback.rate_budget import RateBucket
from kd_perception.fallback.running_threshold import RunningThreshold
from kd_perception.fallback.scores import Ambiguity

FREE = GateSettings(share=1.0, audit_share=0.0)
S = 1_000_000_000


def decide(gate, score, now=0, **options):
    return gate.decide(Ambiguity(score, 'band', (('band', score),)), now, **options)


def run(gate, scores, **options):
    return [decide(gate, score, **options) for score in scores]


def test_ambiguous_and_clear():
    gate = Gate(FREE)
    clear, ambiguous = run(gate, [0.49, 0.5])
    assert (clear.send, clear.ambiguous, clear.reason, clear.denied) == (False, False, 'clear', '')
    assert (ambiguous.send, ambiguous.ambiguous, ambiguous.reason) == (True, True, 'band')
    assert ambiguous.score == 0.5 and ambiguous.contributions == (('band', 0.5),)


def test_hysteresis():
    scores = [0.45, 0.5, 0.45, 0.39, 0.4, 0.39, 0.39, 0.45, 0.5]
    decisions = run(Gate(FREE), scores)
    assert [d.ambiguous for d in decisions] == [False, True, True, True, True, True, False, False, True]
    assert [d.held for d in decisions] == [False, False, True, True, True, True, False, False, False]
    assert [d.send for d in decisions] == [d.ambiguous for d in decisions]
    assert all((d.reason == 'held') == d.held for d in decisions)


def test_without_hysteresis():
    plain = dataclasses.replace(FREE, leave=0.5, leave_frames=1)
    assert [d.ambiguous for d in run(Gate(plain), [0.5, 0.49, 0.5])] == [True, False, True]


def test_a_scorer_that_fails_does_not_say_all_clear():
    assert decide(Gate(FREE), math.nan).ambiguous


def test_share_budget():
    gate = Gate(GateSettings(share=0.25, audit_share=0.0, burst=1))
    decisions = run(gate, [1.0] * 9)
    assert [d.send for d in decisions] == [i % 4 == 0 for i in range(9)]
    assert {d.denied for d in decisions if not d.send} == {SHARE_SPENT}
    assert all(d.ambiguous for d in decisions)
    assert gate.counts == {'frames': 9, 'ambiguous': 9, 'audited': 0, 'probed': 0, 'refreshed': 0, 'later': 0,
                           'sent': 3, **dict.fromkeys(DENIALS, 0), SHARE_SPENT: 6}


def test_full_share_sends_all_even_with_audits():
    assert all(d.send for d in run(Gate(GateSettings(share=1.0, audit_share=0.3)), [1.0] * 200))


def test_zero_share_sends_nothing():
    assert not any(d.send for d in run(Gate(GateSettings(share=0.0, audit_share=0.0)), [1.0] * 50))


def test_rate_budget_shared_by_two_cameras():
    rate = RateBucket(1.0)
    front, rear = Gate(FREE, rate=rate), Gate(FREE, rate=rate)
    assert decide(front, 1.0, 0).send
    refused = decide(rear, 1.0, 0)
    assert (refused.send, refused.denied) == (False, RATE_SPENT)
    assert decide(rear, 1.0, 1 * S).send and not decide(front, 1.0, 1 * S).send


def test_audit_share_is_drawn_whatever_the_score():
    gate = Gate(GateSettings(share=0.5, audit_share=0.1, burst=5), seed=3)
    decisions = run(gate, [0.0] * 5000)
    drawn = [d for d in decisions if d.audit]
    assert 400 <= len(drawn) <= 600
    assert {d.reason for d in drawn} == {'audit'} and not any(d.ambiguous for d in drawn)
    sent = sum(d.send for d in decisions)
    assert sent == sum(d.send for d in drawn) == gate.counts['audited'] > 0.9 * len(drawn)


def test_ambiguity_cannot_starve_audits():
    gate = Gate(GateSettings(share=0.1, audit_share=0.05, burst=1), seed=3)
    decisions = run(gate, [1.0] * 4000)
    sent = sum(d.send for d in decisions)
    assert sent <= 0.1 * 4000 + 1 + AUDIT_BURST
    audited = sum(d.send for d in decisions if d.audit)
    assert audited > 0.75 * sum(d.audit for d in decisions)
    # An ambiguous frame that is drawn keeps its reason.
    assert {d.reason for d in decisions} == {'band'}


def test_same_frames_are_audited_whatever_happens():
    settings_ = GateSettings(share=0.5, audit_share=0.1)
    calm = run(Gate(settings_, seed=5), [0.0] * 300)
    stormy = run(Gate(settings_, seed=5, rate=RateBucket(0.0)), [1.0] * 300, blocked=TEACHER_OUT)
    other = run(Gate(settings_, seed=6), [0.0] * 300)
    assert [d.audit for d in calm] == [d.audit for d in stormy] != [d.audit for d in other]


@pytest.mark.parametrize('blocked', [TEACHER_OUT, TEACHER_OFF, NO_IMAGE])
def test_blocked(blocked):
    gate = Gate(GateSettings(share=0.5, audit_share=0.0, burst=2))
    decisions = run(gate, [1.0, 0.0, 0.0, 0.0], blocked=blocked)
    assert not any(d.send for d in decisions)
    assert [d.denied for d in decisions] == [blocked, blocked, '', '']     # the second is held ambiguous
    assert gate.counts[blocked] == 2
    # Nothing was spent: the full burst is there.
    assert [d.send for d in run(gate, [1.0, 1.0, 1.0])] == [True, True, True]


def test_probe_takes_any_frame_and_pays_for_it():
    gate = Gate(GateSettings(share=0.25, audit_share=0.0, burst=1))
    probe = decide(gate, 0.0, blocked=TEACHER_OUT, probe_due=True)
    assert (probe.send, probe.probe, probe.ambiguous, probe.reason, probe.denied) == (
        True, True, False, 'clear', '')
    again = decide(gate, 1.0, blocked=TEACHER_OUT, probe_due=True)
    assert (again.send, again.probe, again.denied) == (False, False, TEACHER_OUT)
    run(gate, [0.0] * 3, blocked=TEACHER_OUT)
    ambiguous = decide(gate, 1.0, blocked=TEACHER_OUT, probe_due=True)
    assert (ambiguous.send, ambiguous.probe, ambiguous.ambiguous, ambiguous.denied) == (
        True, True, True, TEACHER_OUT)
    assert gate.counts['probed'] == gate.counts['sent'] == 2


@pytest.mark.parametrize('blocked', ['', TEACHER_OFF, NO_IMAGE])
def test_no_probe_but_where_the_teacher_is_out(blocked):
    assert not decide(Gate(FREE), 0.0, blocked=blocked, probe_due=True).send


def test_live_reconfiguration_keeps_state():
    gate = Gate(GateSettings(share=0.5, audit_share=0.0, burst=2))
    run(gate, [1.0, 1.0, 1.0])
    gate.configure(GateSettings(enter=2.0, leave=0.4, share=0.5, audit_share=0.0, burst=2))
    held = decide(gate, 0.9)
    assert held.ambiguous and held.held         # entered before, and not left yet
    assert gate.counts['frames'] == 4
    gate.configure(GateSettings(share=0.0, audit_share=0.0))
    assert decide(gate, 1.0).denied == SHARE_SPENT


def test_audits_can_be_switched_on_and_off_live():
    gate = Gate(GateSettings(share=0.5, audit_share=0.0))
    assert not any(d.audit for d in run(gate, [0.0] * 200))
    # All of the share is for audits now: only their own bucket can pay.
    gate.configure(GateSettings(share=0.5, audit_share=0.5))
    sent = [d.send for d in run(gate, [0.0] * 200)]
    assert 80 <= sum(sent) <= 0.5 * 200 + AUDIT_BURST
    gate.configure(GateSettings(share=0.5, audit_share=0.0))
    assert not any(d.send for d in run(gate, [0.0] * 200))


@pytest.mark.parametrize('change', [
    {'enter': 0.3}, {'enter': math.nan}, {'leave': -math.inf}, {'leave_frames': 0}, {'share': 1.1},
    {'share': 0.001}, {'audit_share': -0.1}, {'burst': 0.5}])
def test_settings_refuse(change):
    with pytest.raises(ValueError):
        GateSettings(**change)


FRAME = st.tuples(st.floats(0, 1), st.sampled_from(['', TEACHER_OUT, NO_IMAGE]), st.booleans())


@settings(max_examples=80, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(1, 4), st.lists(FRAME, max_size=120), st.integers(0, 9))
def test_budget_holds_in_every_window(share, part, burst, frames, seed):
    gate = Gate(GateSettings(share=share, audit_share=share * part, burst=burst), seed)
    decisions = [decide(gate, score, i, blocked=blocked, probe_due=probe)
                 for i, (score, blocked, probe) in enumerate(frames)]
    sent = [d.send for d in decisions]
    for start in range(0, len(sent), 7):
        for end in range(start + 1, len(sent) + 1):
            assert sum(sent[start:end]) <= share * (end - start) + burst + AUDIT_BURST + 1e-6
    for d in decisions:
        assert not (d.send and d.denied and not d.probe)
        assert (d.ambiguous or d.audit) <= (d.send or bool(d.denied))
        assert d.send <= (d.ambiguous or d.audit or d.probe)


def test_what_is_left_over_is_spent_where_that_is_wanted():
    """By the price: what falls short of it waits, what reaches it is sent, clear or not."""
    gate = Gate(GateSettings(share=0.25, audit_share=0.0, burst=3.0, refresh=True))
    assert gate.saved == 1
    cheap = [gate.decide(Ambiguity(0.1, 'clear'), i, price=-math.inf) for i in range(40)]
    assert {decision.reason for decision in cheap if decision.send} == {'refresh'}
    assert not any(decision.ambiguous or decision.denied for decision in cheap)
    assert gate.counts['refreshed'] == gate.counts['sent'] == 3 + 9 and gate.saved < 0.3
    dear = decide(gate, 0.7, price=0.8)
    assert (dear.send, dear.ambiguous, dear.denied) == (False, True, SHARE_SPENT), 'kept for a harder one'
    assert not decide(gate, 0.3, price=0.2, blocked='teacher_busy').send
    assert decide(gate, 0.3, price=0.2).send
    assert not Gate(GateSettings(share=0.0, audit_share=0.0)).decide(
        Ambiguity(1.0, 'clear'), 0, price=-math.inf).send
    only = Gate(GateSettings(share=0.25, audit_share=0.0, refresh=False))
    assert not decide(only, 0.1, price=-math.inf).send and decide(only, 0.7, price=0.8).send


def test_the_price_rises_with_what_was_spent_and_falls_with_what_was_saved():
    running = RunningThreshold(0.2, 0.5)
    for score in np.linspace(0, 1, 101):
        running.add(score)
    prices = [running.price(saved) for saved in (0.0, 0.25, 0.5, 0.75, 0.99)]
    assert prices == sorted(prices, reverse=True) and running.price(1.0) == -math.inf
    assert prices[0] == 1.0 and prices[2] == pytest.approx(running.at()) and prices[4] < 0.05


@pytest.mark.parametrize('burst,share', [(1.5, 0.1), (2.0, 0.2), (3.0, 0.5), (10.0, 0.3)])
def test_all_of_the_budget_is_spent_on_any_road(burst, share):
    """Scores that fall all the time reach no threshold that follows them; some are sent all the same."""
    rng = np.random.default_rng(0)
    for scores in (np.linspace(1, 0, 300), rng.random(300), np.zeros(300), np.linspace(0, 1, 300)):
        gate = Gate(GateSettings(share=share, audit_share=0.0, burst=burst))
        running, sent = RunningThreshold(share, 0.5), 0
        for score in scores:
            sent += decide(gate, score, price=running.price(gate.saved)).send
            running.add(score)
        assert share * 300 - 1.5 * burst - 1 <= sent <= share * 300 + burst
