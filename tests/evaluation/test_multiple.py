"""Several comparisons at once: p-values, Holm by hand, max-T on simulated nulls."""

from __future__ import annotations

import numpy as np
import pytest

from consilia.evaluation.multiple import bootstrap_p, holm, max_t


def test_holm_by_hand() -> None:
    """m = 4: .01 x 4, .02 x 3, .03 x 2 (not below the one before), .5 x 1."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])


def test_holm_counts_claims_that_could_not_be_tested_and_stops_at_1() -> None:
    assert holm([None, 0.02, 0.9]) == pytest.approx([None, 0.06, 1.0])
    assert holm([]) == []


def test_bootstrap_p_by_counting() -> None:
    draws = np.array([9.0, 1, 2, 3, -1, 0, 4, 5, 6, 7])  # nine draws: two are <= 0, eight are >= 0
    assert bootstrap_p(draws) == pytest.approx(2 * 3 / 10)
    assert bootstrap_p(np.array([1.0] + [0.0] * 9)) == 1.0
    assert bootstrap_p(np.array([1.0, np.nan])) is None


def test_max_t_of_two_is_the_quantile_of_one_statistic() -> None:
    random = np.random.default_rng(0)
    draws = {"a": random.normal(size=401), "b": random.normal(size=401)}
    difference = draws["a"] - draws["b"]
    half = np.quantile(np.abs(difference[1:] - difference[0]), 0.95)
    value, low, high = max_t(draws)["a", "b"]
    assert (value, low, high) == pytest.approx((difference[0], difference[0] - half, difference[0] + half))
    assert max_t(draws)["b", "a"] == pytest.approx((-value, -high, -low))


def test_max_t_of_equal_methods_has_no_width() -> None:
    same = np.random.default_rng(0).normal(size=50)
    assert max_t({"a": same, "b": same})["a", "b"] == (0.0, 0.0, 0.0)


def test_max_t_covers_all_true_differences_together() -> None:
    """Five equal methods, means of 60 normal cases each: all ten intervals hold 0 in about 95 % of studies."""
    random = np.random.default_rng(3)
    studies, cases, methods = 150, 60, 5
    covered = pointwise = 0
    for _ in range(studies):
        data = random.normal(size=(methods, cases))
        drawn = random.multinomial(cases, np.full(cases, 1 / cases), size=300)
        times = np.concatenate([np.ones((1, cases)), drawn])
        means = times @ data.T / cases
        found = max_t({str(number): means[:, number] for number in range(methods)})
        covered += all(low <= 0 <= high for _, low, high in found.values())
        pairs = [means[:, a] - means[:, b] for a in range(methods) for b in range(a)]
        pointwise += all(np.quantile(p[1:], 0.025) <= 0 <= np.quantile(p[1:], 0.975) for p in pairs)
    assert 0.89 <= covered / studies <= 0.99
    assert pointwise / studies < covered / studies  # as many intervals of 95 % each would miss far more often
