# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""ROC area and risk-coverage against their definitions, taken literally."""

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.evaluation.hybrid.ranking import auroc, risk_coverage

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12)


@given(PAIRS)
def test_auroc_is_the_chance_of_a_right_order(rows):
    scores, positive = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows])
    wins = [(p > n) + 0.5 * (p == n) for p in scores[positive] for n in scores[~positive]]
    if wins:
        assert auroc(scores, positive) == pytest.approx(np.mean(wins))
    else:
        assert math.isnan(auroc(scores, positive))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-3, 3)), min_size=1, max_size=6))
def test_ties_are_taken_in_random_order_in_expectation(rows):
    ambiguity, loss = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows], float)
    curves = []
    for order in itertools.permutations(range(len(rows))):
        if all(ambiguity[a] <= ambiguity[b] for a, b in zip(order, order[1:])):
            curves.append(np.cumsum(loss[list(order)]) / np.arange(1, len(rows) + 1))
    result = risk_coverage(ambiguity, loss)
    np.testing.assert_allclose(result.risk, np.mean(curves, axis=0), atol=1e-12)
    assert result.area == pytest.approx(np.mean(curves))
    assert result.best_area <= result.area + 1e-12


def test_ideal_random_and_reversed_ranking():
    loss = np.array([0.0, 0.0, 1.0, 3.0])
    ideal, flat, worst = (risk_coverage(a, loss) for a in (loss, np.zeros(4), -loss))
    np.testing.assert_allclose(ideal.coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(ideal.risk, [0, 0, 1 / 3, 1])
    assert (ideal.excess_area, ideal.skill) == (0, 1)
    assert flat.area == flat.random_area == 1 and flat.skill == 0
    assert worst.skill < 0 and worst.risk[0] == 3
    assert math.isnan(risk_coverage([1, 2], [5, 5]).skill)


@pytest.mark.parametrize('call', [
    lambda: auroc([1, 2], [True]), lambda: auroc([1, np.nan], [True, False]), lambda: risk_coverage([], []),
    lambda: risk_coverage([1, 2], [1, np.inf]), lambda: risk_coverage([[1]], [[1]])])
def test_refuses(call):
    with pytest.raises(ValueError, match='expected'):
        call()
