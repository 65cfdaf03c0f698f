"""Flips, backward transfer and inter-peak forgetting, each worked by hand."""

from __future__ import annotations

import pytest
import torch

from consilia.evaluation.forgetting import (
    backward_transfer,
    flips,
    inter_peak_forgetting,
)
from consilia.evaluation.rounds import transfer
from consilia.record.schema import Record
from tests.report.factory import make_record


def test_flips() -> None:
    before = torch.tensor([True, True, False, False, True])
    now = torch.tensor([True, False, True, False, False])
    assert flips(before, now) == (2, 1)
    # The authors' history starts with every case wrong: a first evaluation forgets nothing.
    assert flips(torch.zeros(3, dtype=torch.bool), torch.tensor([True, False, True])) == (0, 2)


def test_flips_need_the_same_cases() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        flips(torch.zeros(2, dtype=torch.bool), torch.zeros(3, dtype=torch.bool))


def test_backward_transfer_by_hand() -> None:
    accuracy = {
        0: {"a": 0.1, "b": 0.1, "c": 0.1},
        1: {"a": 0.5, "b": 0.6, "c": 0.2},
        2: {"a": 0.4, "b": 0.7, "c": 0.3},
        3: {"a": 0.8, "b": 0.5, "c": 0.9},
    }
    participants = {1: ["a"], 2: ["a", "b"], 3: ["c"]}
    found = backward_transfer(accuracy, participants)
    # 1: nobody trained in an earlier round.
    # 2: a last trained in round 1, so 0.4 - 0.5; that a trains in round 2 as well does not matter.
    # 3: a and b last trained in round 2: (0.8 - 0.4 + 0.5 - 0.7) / 2; c trains only now.
    assert found == {1: 0.0, 2: pytest.approx(-0.1), 3: pytest.approx(0.1)}


def test_backward_transfer_leaves_out_what_was_not_evaluated() -> None:
    # Round 2 was not evaluated at all; at version 3 site a (last trained in 2) cannot be compared, b (in 1) can.
    accuracy = {1: {"a": 0.5, "b": 0.5}, 3: {"a": 0.9, "b": 0.4}}
    assert backward_transfer(accuracy, {1: ["a", "b"], 2: ["a"], 3: ["b"]}) == {1: 0.0, 3: pytest.approx(-0.1)}
    # Nothing at all to compare with: no entry, rather than a 0 that would read as "nothing forgotten".
    assert backward_transfer({2: {"a": 0.9}}, {1: ["a"], 2: ["a"]}) == {}


def test_inter_peak_by_hand() -> None:
    # Peak 0.5 (index 0), drops 0.2 and 0.4 relative, back at 0.6; peak 0.8, drop 0.25, never back (censored).
    found = inter_peak_forgetting([0.5, 0.4, 0.3, 0.6, 0.8, 0.6])
    assert found.rates == (pytest.approx(0.3), pytest.approx(0.25))
    assert found.average == pytest.approx(0.275)
    assert found.consistency == pytest.approx(0.725)
    assert found.censored


def test_a_rising_series_is_wholly_consistent() -> None:
    found = inter_peak_forgetting([0.0, 0.2, 0.2, 0.9])
    assert (found.rates, found.average, found.consistency, found.censored) == ((), 0.0, 1.0, False)


def test_an_equalled_peak_closes_and_opens() -> None:
    found = inter_peak_forgetting([0.8, 0.4, 0.8, 0.6, 0.8])
    assert found.rates == (0.5, pytest.approx(0.25))
    assert not found.censored


@pytest.mark.parametrize("series", [[], [0.7]])
def test_too_short_to_forget(series: list[float]) -> None:
    found = inter_peak_forgetting(series)
    assert found.average is None
    assert found.consistency is None


def test_a_site_whose_update_was_refused_has_not_trained_in_that_round() -> None:
    """Ashford's second update is refused: what it forgets then counts from its first round."""
    content = make_record(rounds=3).plain()
    content["rounds"][1]["contributions"].pop("Ashford")
    content["rounds"][1]["refused"] = {"Ashford": "a value that is nan"}
    record = Record.model_validate(content)
    trained = {part.round: sorted(part.contributions) for part in record.rounds}
    assert "Ashford" in record.rounds[1].participants
    assert "Ashford" not in trained[2]
    accuracy = {
        item.version: {
            site: metrics.test.accuracy for site, metrics in item.sites.items() if not record.sites[site].test_only
        }
        for item in record.evaluations
        if item.model == "global"
    }
    assert transfer(record) == backward_transfer(accuracy, trained)
    assert transfer(record) != backward_transfer(accuracy, {part.round: part.participants for part in record.rounds})
