"""Cox's partial likelihood and the C-index: by hand, by plain loops, and on published data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from consilia.core.errors import DataError
from consilia.evaluation.survival import concordance, cox_loss, survival_metrics

SIX_MP = [(6, 1)] * 3 + [(6, 0), (7, 1), (9, 0), (10, 1), (10, 0), (11, 0), (13, 1), (16, 1), (17, 0), (19, 0), (20, 0)]
SIX_MP += [(22, 1), (23, 1), (25, 0), (32, 0), (32, 0), (34, 0), (35, 0)]
PLACEBO = [(weeks, 1) for weeks in (1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23)]
LEUKAEMIA = torch.tensor(SIX_MP + PLACEBO, dtype=torch.float64)
"""Weeks to relapse, and whether there was one, of 42 children: Freireich et al., Blood 21 (1963)."""
OTHER_TREATMENT = torch.tensor([0.0] * 21 + [1.0] * 21, dtype=torch.float64)


def labels(*cases: tuple[float, int]) -> torch.Tensor:
    return torch.tensor(cases, dtype=torch.float64)


def test_loss_of_four_cases_by_hand() -> None:
    scores, found = [0.5, -1.0, 2.0, 0.0], labels((2, 1), (3, 0), (1, 1), (4, 1))
    # At time 1 all are at risk, at 2 all but the third, at 4 the last alone, whose term is 0.
    at_1 = math.log(sum(map(math.exp, scores))) - 2.0
    at_2 = math.log(math.exp(0.5) + math.exp(-1.0) + math.exp(0.0)) - 0.5
    assert float(cox_loss(torch.tensor(scores), found)) == pytest.approx((at_1 + at_2) / 4)


def test_equal_times_share_one_risk_set() -> None:
    """Breslow: both events of time 1 are at risk with each other and with the case censored then."""
    found = labels((1, 1), (1, 1), (1, 0), (2, 0))
    expected = 2 * math.log(1 + math.e + 1 + 1) - 1.0
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        scores = torch.tensor([0.0, 1.0, 0.0, 0.0])
        assert float(cox_loss(scores[order], found[order])) == pytest.approx(expected / 4)


def test_loss_and_hazard_ratio_of_the_leukaemia_data() -> None:
    """-2 log L of no effect and of Breslow's estimate, 1.509: Collett, Modelling Survival Data; SAS/STAT PHREG."""

    def deviance(beta: float) -> tuple[float, float]:
        """-2 log L, and its slope."""
        given = torch.tensor(beta, dtype=torch.float64, requires_grad=True)
        found = 2 * 42 * cox_loss(given * OTHER_TREATMENT, LEUKAEMIA)
        found.backward()
        return found.item(), given.grad.item()

    assert deviance(0.0)[0] == pytest.approx(187.970, abs=5e-4)
    assert deviance(1.509)[0] == pytest.approx(172.759, abs=5e-4)
    assert deviance(1.5085)[1] < 0 < deviance(1.5095)[1]


def test_gradient_is_that_of_finite_differences_with_ties() -> None:
    found = labels((1, 1), (2, 1), (2, 1), (3, 1), (3, 0), (5, 1), (5, 1), (0.5, 0))
    scores = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda given: cox_loss(given, found), scores)


def test_loss_of_huge_log_hazards_is_finite() -> None:
    scores = torch.tensor([1e4, -1e4, 0.0, 3.0], requires_grad=True)
    loss = cox_loss(scores, labels((1, 1), (2, 1), (2, 0), (3, 1)))
    loss.backward()
    assert loss.dtype == torch.float64
    assert loss.isfinite()
    assert scores.grad.isfinite().all()


def test_loss_is_no_mean_over_cases() -> None:
    """Another case at risk changes the term of an event."""
    scores, found = torch.tensor([0.0, 0.0, 0.0]), labels((1, 1), (2, 0), (3, 0))
    assert float(cox_loss(scores, found)) == pytest.approx(math.log(3) / 3)
    assert float(cox_loss(scores[:2], found[:2])) == pytest.approx(math.log(2) / 2)


def plain_concordance(scores: np.ndarray, found: np.ndarray, weights: np.ndarray) -> float:
    right = pairs = 0.0
    for i in range(len(scores)):
        for j in range(len(scores)):
            (first, had), (second, other) = found[i], found[j]
            if had and (first < second or (first == second and not other)):
                pairs += weights[i] * weights[j]
                right += weights[i] * weights[j] * ((scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
    return right / pairs if pairs else math.nan


@pytest.mark.parametrize("cases", [1, 2, 5, 40])
def test_concordance_is_that_of_a_double_loop(cases: int) -> None:
    draw = np.random.default_rng(cases)
    for _ in range(10):  # few values: many ties of scores and of times, events and censored
        scores = draw.integers(0, 6, cases).astype(float)
        found = np.stack([draw.integers(1, 6, cases), draw.integers(0, 2, cases)], axis=1).astype(float)
        weights = draw.integers(0, 4, (3, cases)).astype(float)
        expected = [plain_concordance(scores, found, row) for row in weights]
        assert concordance(scores, found, weights) == pytest.approx(expected, nan_ok=True)


def test_concordance_of_many_cases() -> None:
    draw = np.random.default_rng(0)
    cases = 5_000
    times = draw.exponential(size=cases)
    found = np.stack([times, np.ones(cases)], axis=1)
    assert concordance(-times, found, np.ones((1, cases))) == pytest.approx([1.0])


def test_metrics_of_four_cases_by_hand() -> None:
    """Pairs (1, 2), (1, 3), (1, 4), (3, 4): all but (1, 3), of equal log hazards, in order."""
    found = survival_metrics(
        torch.tensor([2.0, 1.0, 2.0, 0.0]), labels((1, 1), (2, 0), (3, 1), (4, 0)), ["a", "a", "b", "c"]
    )
    assert (found["count"], found["events"], found["patients"]) == (4, 2, 3)
    assert found["c_index"] == pytest.approx(3.5 / 4)
    assert found["intervals"]["c_index"]["low"] <= 3.5 / 4 <= found["intervals"]["c_index"]["high"]


def test_intervals_are_of_draws_of_patients() -> None:
    """Cases of one patient are drawn together: a copy of every case changes neither C nor its standard error."""
    draw = torch.Generator().manual_seed(1)
    scores, times = torch.randn(30, generator=draw), torch.rand(30, generator=draw) + 0.1
    once = torch.stack([times, (torch.arange(30) % 2).double()], dim=1).double()
    people = [f"p{i}" for i in range(30)]
    single = survival_metrics(scores, once, people)
    twice = survival_metrics(scores.repeat(2), torch.cat([once, once]), people * 2)
    alone = survival_metrics(scores.repeat(2), torch.cat([once, once]), [])
    # Copies of one case are no pair of their own: they have one time, and both the event or both not.
    assert twice["c_index"] == pytest.approx(single["c_index"])
    assert twice["intervals"]["c_index"]["se"] == pytest.approx(single["intervals"]["c_index"]["se"])
    assert alone["intervals"]["c_index"]["se"] < 0.9 * single["intervals"]["c_index"]["se"]


@pytest.mark.parametrize(
    ("scores", "found", "c_index", "has_loss"),
    [
        ([1.0, 2.0], labels((1, 0), (2, 0)), None, False),  # no event
        ([1.0, 2.0], labels((1, 1), (1, 1)), None, True),  # constant times, no pair to compare
        ([1.0, 2.0], labels((1, 1), (1, 0)), 0.0, True),  # the case censored then outlives the event
        ([1.0], labels((1, 1)), None, True),
        ([math.nan, 2.0], labels((1, 1), (2, 0)), None, False),
        ([math.inf, 2.0], labels((1, 1), (2, 0)), None, False),
        ([1.0, 1.0], labels((1, 1), (2, 0)), 0.5, True),
    ],
)
def test_what_is_undefined_is_none_and_never_nan(scores, found, c_index, has_loss) -> None:
    metrics = survival_metrics(torch.tensor(scores), found, [])
    assert metrics["c_index"] == c_index
    assert (metrics["loss"] is not None) == has_loss
    assert all(math.isfinite(value) for value in metrics.values() if isinstance(value, float))


def test_no_cases_and_wrong_shapes() -> None:
    assert survival_metrics(torch.zeros(0), torch.zeros(0, 2)) is None
    with pytest.raises(DataError, match="log hazards"):
        survival_metrics(torch.zeros(3, 1), torch.zeros(3, 2))
