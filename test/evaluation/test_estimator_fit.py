# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Fitting: optimality against first principles, honest folds, and every refusal."""

import json

import numpy as np
import pytest

from kd_perception.errors import TrainingError
from kd_perception.evaluation.hybrid.estimator_fit import assign_folds, fit_estimator, share_thresholds
from kd_perception.fallback.estimator import Estimator

NAMES = ('rejected_mass', 'luminance', 'empty', 'contrast')
LABELS = ('Car',)


def sample(count=400, seed=0, noise=1.0):
    """Frames whose target depends on the first two features."""
    rng = np.random.default_rng(seed)
    values = np.stack([np.expm1(np.abs(rng.normal(1, 0.5, count))), rng.normal(100, 20, count),
                       rng.integers(0, 2, count), np.full(count, 30.0)], axis=1)
    margin = 3 * (np.log1p(values[:, 0]) - 1) - (values[:, 1] - 100) / 20
    return values, margin, margin + noise * rng.logistic(size=count)


def fit(values, target, **options):
    options = {'labels': LABELS, 'kind': 'logistic', 'folds': 4, 'seed': 1, **options}
    return fit_estimator(NAMES, values, target, **options)


def test_finds_what_decides():
    values, margin, noisy = sample()
    result = fit(values, noisy > 0)
    weights = {f.name: f.weight for f in result.estimator.features}
    assert weights['rejected_mass'] > 0.8 and weights['luminance'] < -0.4
    assert abs(weights['empty']) < 0.3
    assert weights['contrast'] == 0      # never varied: no say, whatever it does later
    assert 0.75 < result.auroc <= 1
    assert {f.name: f.transform for f in result.estimator.features} == {
        'rejected_mass': 'log1p', 'luminance': 'identity', 'empty': 'identity', 'contrast': 'identity'}


@pytest.mark.parametrize('kind', ['logistic', 'linear'])
def test_solution_is_the_minimum(kind):
    """The gradient of the stated objective vanishes; no step in any direction improves it."""
    values, margin, noisy = sample(200)
    target = (noisy > 0).astype(float) if kind == 'logistic' else noisy
    l2 = 0.05
    estimator = fit(values, target, kind=kind, l2_grid=(l2,)).estimator
    x = estimator.standardised(NAMES, values)
    weight = np.array([f.weight for f in estimator.features])

    def objective(w, b):
        m = x @ w + b
        loss = np.logaddexp(0, m) - target * m if kind == 'logistic' else (m - target) ** 2
        scale = 1.0 if kind == 'logistic' else 0.5     # ridge: half the squared error
        return scale * loss.mean() + 0.5 * l2 * (w ** 2).sum()

    best = objective(weight, estimator.bias)
    for i in range(4):
        for step in (-1e-3, 1e-3):
            moved = weight.copy()
            moved[i] += step
            assert objective(moved, estimator.bias) >= best - 1e-12
    assert objective(weight, estimator.bias + 1e-3) > best < objective(weight, estimator.bias - 1e-3)


def test_linear_recovers_a_line():
    values, margin, _ = sample()
    result = fit(values, margin, kind='linear', l2_grid=(1e-6,))
    np.testing.assert_allclose(result.estimator.scores(NAMES, values), margin, atol=1e-3)
    np.testing.assert_allclose(result.held_out, margin, atol=1e-2)


def test_unknown_values_do_not_move_the_others():
    values, _, noisy = sample()
    holes = values.copy()
    holes[::3, 1] = np.nan
    estimator = fit(holes, noisy > 0).estimator
    known = values[np.arange(len(values)) % 3 != 0, 1]
    luminance = next(f for f in estimator.features if f.name == 'luminance')
    assert luminance.mean == pytest.approx(known.mean()) and luminance.scale == pytest.approx(known.std())


def test_held_out_scores_do_not_see_their_own_group():
    """Targets that only a group's own frames could tell: in-sample looks fine, held out does not."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(12), 10)
    level = rng.normal(0, 1, 12)[groups]
    target = rng.integers(0, 2, 12)[groups].astype(float)
    values = np.stack([np.ones(120), level, np.zeros(120), np.zeros(120)], axis=1)
    honest = fit(values, target, groups=groups.tolist(), folds=6, l2_grid=(1e-4,))
    flattered = fit(values, target, folds=6, l2_grid=(1e-4,))
    assert honest.losses[1e-4] > flattered.losses[1e-4]


def test_held_out_scores_are_those_of_a_fit_on_the_other_folds():
    values, margin, noisy = sample(60)
    result = fit(values, noisy, kind='linear', l2_grid=(0.1,), folds=3, seed=4)
    fold = assign_folds(range(60), 3, seed=4)
    for k in range(3):
        rest = fit(values[fold != k], noisy[fold != k], kind='linear', l2_grid=(0.1,), folds=2).estimator
        scores = rest.scores(NAMES, values[fold == k])
        np.testing.assert_allclose(result.held_out[fold == k], scores, rtol=1e-9)
    loss = pytest.approx(((result.held_out - noisy) ** 2).mean())
    assert result.losses == {0.1: loss}
    assert result.estimator.trained['held_out_loss'] == loss


def test_penalty_is_chosen_by_the_held_out_loss():
    rng = np.random.default_rng(5)
    values = np.stack([rng.normal(size=60) ** 2, *rng.normal(size=(3, 60))], axis=1)
    noise = rng.integers(0, 2, 60).astype(float)
    result = fit(values, noise, l2_grid=(1e-4, 10.0))
    assert result.l2 == 10.0 == min(result.losses, key=result.losses.get)
    values, margin, _ = sample()
    result = fit(values, margin, kind='linear', l2_grid=(1e-5, 10.0))
    assert result.l2 == 1e-5


def test_separable_and_one_sided_targets_stay_finite():
    values, margin, _ = sample(100)
    sharp = fit(values, margin > 0, l2_grid=(1e-4,))
    assert all(np.isfinite(f.weight) for f in sharp.estimator.features) and sharp.auroc > 0.98
    same = fit(values, np.zeros(100))
    assert np.isnan(same.auroc) and (same.held_out < 0.2).all()
    assert same.estimator.trained['held_out_auroc'] is None


def test_seed_decides_all_chance():
    values, _, noisy = sample(100)
    first, again, other = (fit(values, noisy > 0, seed=seed) for seed in (7, 7, 8))
    assert first.estimator == again.estimator and (first.held_out == again.held_out).all()
    assert (first.held_out != other.held_out).any()


def test_share_thresholds_send_that_share():
    values, _, noisy = sample(1000)
    estimator = fit(values, noisy > 0).estimator
    scores = estimator.scores(NAMES, values)
    for share in (0.05, 0.2, 0.33, 0.9):
        assert (scores >= estimator.threshold_for(share)).mean() == pytest.approx(share, abs=0.02)
    table = share_thresholds(np.array([1.0, 2.0, 3.0]), (0.0, 0.5, 1.0))
    assert table == ((0.0, 3.0), (0.5, 2.0), (1.0, 1.0))


def test_document_of_a_fit():
    values, _, noisy = sample(100)
    result = fit(values, noisy > 0, groups=[i // 5 for i in range(100)])
    text = json.dumps(result.estimator.to_document(), allow_nan=False)
    assert Estimator.from_document(json.loads(text), LABELS, 'm') == result.estimator
    assert result.estimator.trained['frames'] == 100 and result.estimator.trained['groups'] == 20


def test_folds_keep_groups_whole_and_sizes_even():
    groups = [0] * 7 + [1] * 5 + [2] * 5 + [3] * 3 + list(range(10, 14))
    fold = assign_folds(groups, 3, seed=0)
    assert all(len({f for f, g in zip(fold, groups) if g == group}) == 1 for group in groups)
    assert sorted(np.bincount(fold)) == [8, 8, 8]
    assert (fold == assign_folds(groups, 3, seed=0)).all()
    assert any((fold != assign_folds(groups, 3, seed=s)).any() for s in range(1, 5))


@pytest.mark.parametrize('folds,groups', [(1, range(5)), (6, range(5)), (2, [1, 1, 1]), (2, [])])
def test_too_few_groups(folds, groups):
    with pytest.raises(TrainingError, match='folds'):
        assign_folds(groups, folds, 0)


@pytest.mark.parametrize('change,message', [
    ({'values': np.zeros((4, 3))}, 'disagree'), ({'target': np.zeros(3)}, 'disagree'),
    ({'target': np.array([0, 1, 2, 0])}, r'\[0, 1\]'), ({'target': np.array([0, np.nan, 1, 0])}, 'finite'),
    ({'values': np.full((4, 4), np.inf)}, 'infinite'), ({'kind': 'forest'}, 'kind'),
    ({'names': ('a', 'b', 'c', 'd')}, 'unknown'), ({'names': ('empty',) * 4}, 'each once'),
    ({'groups': [1, 2]}, '2 groups for 4 frames'),
    ({'l2_grid': ()}, 'l2_grid'), ({'l2_grid': (0.0,)}, 'l2_grid')])
def test_refuses(change, message):
    options = {'names': NAMES, 'values': np.zeros((4, 4)), 'target': np.array([0, 1, 0, 1.0]),
               'labels': LABELS, 'folds': 2, **change}
    with pytest.raises(TrainingError, match=message):
        fit_estimator(options.pop('names'), options.pop('values'), options.pop('target'), **options)
