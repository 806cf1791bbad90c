# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The statistics of the drift monitors, against published tables and against simulation without change."""
import math

import numpy as np
import pytest

from kd_perception.drift.change_tests import (
    chi_squared_quantile,
    cluster_trials,
    Cusum,
    cusum_threshold,
    greater_share,
    ks_statistic,
    ks_threshold,
    psi_statistic,
    psi_threshold,
    wilson_interval,
)


@pytest.mark.parametrize('probability, degrees, expected', [
    (0.95, 2, 5.991), (0.95, 4, 9.488), (0.99, 9, 21.666), (0.999, 9, 27.877), (0.5, 10, 9.342)])
def test_chi_squared_quantiles_are_those_of_the_tables(probability, degrees, expected):
    assert chi_squared_quantile(probability, degrees) == pytest.approx(expected, rel=0.02)


def test_statistics_by_hand():
    reference, found = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    assert ks_statistic(found, reference) == pytest.approx(0.3)
    # (0.5 - 0.2) ln(0.5 / 0.2), twice; with so many samples the half ones do not show.
    assert psi_statistic(found, reference, 1e9, 1e9) == pytest.approx(0.6 * math.log(2.5))
    assert psi_statistic(reference, reference, 10, 10) == 0
    assert math.isfinite(psi_statistic(np.array([1.0, 0, 0]), reference, 10, 20))


@pytest.mark.parametrize('n, m', [(10, 20), (36, 50), (200, 200), (36, 1000)])
def test_few_samples_raise_no_more_alarms_than_the_level_says(n, m):
    rng, shares, alpha, trials = np.random.default_rng(1), np.full(10, 0.1), 0.01, 1000
    found, reference = (rng.multinomial(k, shares, trials) / k for k in (n, m))
    ks = sum(ks_statistic(a, b) >= ks_threshold(alpha, n, m) for a, b in zip(found, reference))
    psi = sum(psi_statistic(a, b, n, m) >= psi_threshold(alpha, n, m, 10) for a, b in zip(found, reference))
    allowed = alpha * trials + 4 * math.sqrt(alpha * trials)
    assert ks <= allowed and psi <= allowed


def test_the_index_is_not_just_quiet():
    """With many samples its level is reached, not only kept."""
    rng, shares, trials = np.random.default_rng(2), np.full(10, 0.1), 2000
    found, reference = (rng.multinomial(400, shares, trials) / 400 for _ in range(2))
    alarms = sum(psi_statistic(a, b, 400, 400) >= psi_threshold(0.05, 400, 400, 10)
                 for a, b in zip(found, reference))
    assert 0.6 * 0.05 * trials < alarms < 1.4 * 0.05 * trials


def test_wilson_intervals_are_the_published_ones():
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for hits, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611),
                               (1, 29, 0.0061, 0.1718)):
        assert wilson_interval(hits / n, n) == pytest.approx((low, high), abs=1e-4)
    assert wilson_interval(0.5, 0) == (0, 1)


def test_boxes_that_are_missed_together_count_once():
    rng = np.random.default_rng(3)
    totals = np.full(400, 5)
    alone = rng.binomial(5, 0.3, 400)
    together = 5 * rng.binomial(1, 0.3, 400)
    assert cluster_trials(alone, totals) == pytest.approx(2000, rel=0.15)
    assert cluster_trials(together, totals) == pytest.approx(400, rel=0.15)
    assert cluster_trials(np.zeros(7), np.full(7, 3)) == 7, 'no variance seen is no proof of independence'
    assert cluster_trials(np.array([1]), np.array([4])) == 1 and cluster_trials(np.zeros(0), np.zeros(0)) == 0


def run_lengths(run, threshold, seed, count=40):
    """Return frames until a false alarm, of bits that stay the same for `run` frames."""
    rng, lengths = np.random.default_rng(seed), []
    for _ in range(count):
        cusum, frames = Cusum(0.2, 0.5, run, threshold), 0
        while True:
            bit = float(rng.random() < 0.2)
            alarmed = False
            for _ in range(run):
                frames += 1
                alarmed = cusum.add(bit) or alarmed
            if alarmed:
                break
        lengths.append(frames)
    return np.array(lengths)


@pytest.mark.parametrize('run', [1, 7])
def test_time_between_false_alarms_of_the_cusum_holds_for_correlated_frames(run):
    frames = 40 * run
    lengths = run_lengths(run, cusum_threshold(frames, run), seed=run)
    assert lengths.mean() > frames


def test_a_cusum_that_ignores_correlation_cries_wolf():
    threshold, rng = cusum_threshold(420, 1), np.random.default_rng(0)
    cusum, alarms, frames = Cusum(0.2, 0.5, 1, threshold), 0, 42_000
    for bit in np.repeat(rng.random(frames // 7) < 0.2, 7):
        if cusum.add(float(bit)):
            alarms += 1
            cusum.value = 0.0
    assert alarms > 3 * frames / 420


def test_a_cusum_finds_a_change_and_lets_go_of_it():
    cusum = Cusum(0.2, greater_share(0.2), 1, cusum_threshold(10_000, 1))
    rng = np.random.default_rng(0)
    assert greater_share(0.2) == pytest.approx(0.5)
    assert any(cusum.add(float(rng.random() < 0.6)) for _ in range(100))
    for _ in range(100):
        cusum.add(0.0)
    assert cusum.value == 0
    for bad in ({'p0': 0.0}, {'p1': 0.1}, {'correlated': 0.5}, {'threshold': 0.0}):
        with pytest.raises(ValueError, match='expected'):
            Cusum(**{'p0': 0.2, 'p1': 0.5, 'correlated': 1, 'threshold': 1.0, **bad})
