# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What the page of `poc` says of a change."""

import pytest

from kd_perception.poc.report import compared

DRAWS = {'resampling_sha256': 'ab', 'bootstrap': 100, 'seed': 0}


def report(ap, few=False, draws=DRAWS):
    """Return a report whose resamples wander by ten points, the same way in each report."""
    return {'protocol': dict(draws), 'results': {'Car': {'moderate': {
        'ap_r40': ap, 'ci95': [ap - 5, ap + 5], 'valid_ground_truths': 5 if few else 99,
        'few_ground_truths': few, 'resampled': [ap - 5 + i / 10 for i in range(101)]}}}}


def test_a_change_on_the_same_frames_is_compared_draw_by_draw():
    reports = {'before': report(50.0), 'after': report(52.0), 'teacher': report(70.0)}
    change = compared(reports, 'Car')['change']
    assert change['difference'] == 2.0 and change['beyond_chance']
    assert change['interval'] == pytest.approx([2.0, 2.0])


def test_other_draws_are_taken_as_independent():
    other = report(52.0, draws={**DRAWS, 'resampling_sha256': 'cd'})
    change = compared({'before': report(50.0), 'after': other}, 'Car')['change']
    assert change['interval'] == pytest.approx([2 - 50 ** 0.5, 2 + 50 ** 0.5])
    assert not change['beyond_chance']


def test_next_to_no_objects_show_nothing():
    change = compared({'before': report(50.0, few=True), 'after': report(52.0, few=True)}, 'Car')['change']
    assert change['interval'][0] > 0 and not change['beyond_chance']


def test_what_was_not_measured_has_no_change():
    found = compared({'before': report(50.0), 'teacher': {}}, 'Car')
    assert found['after'] is found['teacher'] is found['change'] is None
