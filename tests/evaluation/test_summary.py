"""The summary of a small record whose every metric can be worked out by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from consilia.evaluation.rounds import Value
from consilia.evaluation.summary import ModelSummary, PhaseCost, Traffic, series, summarise
from consilia.evaluation.tested import tested_on as whose
from tests.evaluation.records import whole


def part(correct: int, count: int, auroc: float | None = None, negative: int | None = None) -> dict[str, Any]:
    accuracy = correct / count
    return {
        "validation": None,
        "test": {
            "count": count,
            "correct": correct,
            "accuracy": accuracy,
            "balanced_accuracy": accuracy / 2,
            "auroc": auroc,
            "loss": 1.0,
            "negative_flips": negative,
            "positive_flips": negative,
        },
    }


def round_of(number: int, participants: list[str], down: int) -> dict[str, Any]:
    return {
        "round": number,
        "participants": participants,
        "contributions": {
            site: {"weight": 1 / len(participants), "samples": 1, "fields": {}, "clipped": None}
            for site in participants
        },
        "bytes_down": dict.fromkeys(participants, down),
        "bytes_up": dict.fromkeys(participants, 2 * down),
        "seconds": {"train": 3.0 * number},
    }


@pytest.fixture
def record() -> dict[str, Any]:
    """Sites a (10 test cases) and b (30); a trains in rounds 1 and 2, b in round 2."""
    evaluations = [
        {"version": 1, "model": "global", "sites": {"a": part(5, 10), "b": part(15, 30)}},
        {"version": 1, "model": "personal", "sites": {"a": part(8, 10)}},
        {"version": 2, "model": "global", "sites": {"a": part(4, 10, negative=2), "b": part(24, 30, negative=4)}},
        {"version": 2, "model": "personal", "sites": {"a": part(6, 10, negative=3), "b": part(27, 30)}},
    ]
    last = {
        "version": 2,
        "sha256": "",
        "global": {"a": part(4, 10, auroc=0.6), "b": part(24, 30)},
        "personal": {"a": part(7, 10, auroc=0.8), "b": part(27, 30, auroc=0.9)},
    }
    return {
        "run": {"seconds": 42.0},
        "sites": {"a": {"test_only": False}, "b": {"test_only": False}},
        "rounds": [round_of(1, ["a"], 100), round_of(2, ["a", "b"], 200)],
        "evaluations": evaluations,
        "final": {"last": last},
    }


def last_of(record: dict[str, Any]) -> ModelSummary:
    last = summarise(whole(record)).last
    assert last is not None
    return last


def test_metrics_of_the_last_version(record: dict[str, Any]) -> None:
    last = last_of(record)
    assert last.numbers["global_accuracy"] == 28 / 40  # counts pooled, not the mean of 0.4 and 0.8
    assert last.numbers["global_balanced_accuracy"] == pytest.approx(0.3)
    assert last.metrics["global_auroc"] == Value(0.6, defined=1, of=2, few=True)  # of no site with 20 patients
    assert last.numbers["personal_accuracy"] == pytest.approx(0.8)  # sites count alike
    assert last.numbers["personal_auroc"] == pytest.approx(0.85)
    assert last.metrics["worst_personal_accuracy"] == Value(0.7, "a")
    assert last.metrics["worst_global_accuracy"] == Value(0.4, "a")
    assert last.numbers["balance"] == pytest.approx(0.75)


def test_over_rounds(record: dict[str, Any]) -> None:
    over_rounds = summarise(whole(record)).over_rounds
    assert over_rounds.versions == 2
    metrics = over_rounds.metrics
    assert metrics["global_accuracy"] == pytest.approx((20 / 40 + 28 / 40) / 2)
    assert metrics["personal_accuracy"] == pytest.approx((0.8 + (0.6 + 0.9) / 2) / 2)
    assert metrics["worst_accuracy"] == pytest.approx((0.8 + 0.6) / 2)
    # The first evaluation has 0 flips; then 6 of 40 cases for the global model.
    assert metrics["nfr_global"] == pytest.approx((0 + 6 / 40) / 2)
    # Round 1: a's first, 0 of 10. Round 2: a's 3, and b's first with 0, of 40 cases.
    assert metrics["nfr_personal"] == pytest.approx((0 + 3 / 40) / 2)
    # Version 1: nobody earlier, 0. Version 2: a trained in round 1: 0.4 - 0.5.
    assert metrics["bwt"] == pytest.approx(-0.05)
    assert metrics["consistency_global"] == 1.0
    # a: 0.8 to 0.6 is a drop of a quarter; b has one evaluation only and does not count.
    assert metrics["consistency_personal"] == pytest.approx(0.75)
    assert metrics["rounds_to_within_1_percent"] is None  # no AUROC


def test_convergence_goes_by_the_global_auroc(record: dict[str, Any]) -> None:
    first, second = (record["evaluations"][place]["sites"] for place in (0, 2))
    first["a"]["test"]["auroc"], first["b"]["test"]["auroc"] = 0.80, 0.69  # mean 0.745
    second["a"]["test"]["auroc"], second["b"]["test"]["auroc"] = 0.75, 0.75
    assert series(whole(record))["global_auroc"] == pytest.approx({1: 0.745, 2: 0.75})
    assert summarise(whole(record)).over_rounds.metrics["rounds_to_within_1_percent"] == 1


def test_costs(record: dict[str, Any]) -> None:
    costs = summarise(whole(record)).costs
    assert costs.down == Traffic(mean=pytest.approx(500 / 3), max=200, total=500)
    assert costs.total == 1500
    assert costs.seconds == 42.0
    assert costs.phases == {"train": PhaseCost(mean=4.5, total=9.0)}


def test_test_only_sites_decide_the_global_metrics_and_have_no_personal_model(record: dict[str, Any]) -> None:
    record["sites"]["x"] = {"test_only": True}
    record["final"]["last"]["global"]["x"] = part(9, 12, auroc=0.7)
    last = last_of(record)
    assert last.numbers["global_accuracy"] == 0.75
    assert last.numbers["global_auroc"] == 0.7
    assert last.metrics["personal_auroc"].of == 2
    assert last.metrics["worst_global_accuracy"].site == "a"


def test_no_balance_mixes_an_unseen_sites_accuracy_with_other_sites_own(record: dict[str, Any]) -> None:
    """trials A 4."""
    assert summarise(whole(record)).over_rounds.metrics["balance"] == pytest.approx((0.6 + 0.775) / 2)
    assert whose(whole(record)) == "test cases of all 2 sites"
    record["sites"]["x"] = {"test_only": True}
    record["final"]["last"]["global"]["x"] = part(9, 12)
    record["evaluations"][0]["sites"]["x"] = part(6, 12)
    summary = summarise(whole(record))
    assert summary.last is not None
    assert (summary.last.numbers["balance"], summary.over_rounds.metrics["balance"]) == (None, None)
    own = "personal models on the training sites' own test cases"
    assert whose(whole(record)) == f"tested on x, which trained nothing; {own}"
    record["sites"]["y"] = {"test_only": True}
    record["final"]["last"]["personal"] = {}
    assert whose(whole(record)) == "tested on x, y, which trained nothing"
    assert whose(
        whole(record),
        whole({**record, "sites": {"a": {"test_only": True}}, "final": {}, "rounds": [], "evaluations": []}),
    ).startswith("tested on the site that was left out of each")


def test_the_cost_per_site_counts_who_sends_an_update(record: dict[str, Any]) -> None:
    """trials A 3: in round 1 site b only evaluates, in round 2 a's update is missing, x never trains."""
    record["sites"]["x"] = {"test_only": True}
    first, second = record["rounds"]
    first["bytes_up"] |= {"b": 7, "x": 7}
    second["bytes_up"] |= {"a": 0, "x": 7}
    second["bytes_down"] |= {"x": 90}
    costs = summarise(whole(record)).costs
    assert costs.up == Traffic(mean=(200 + 400) / 2, max=400, total=621)
    assert costs.down == Traffic(mean=pytest.approx(500 / 3), max=200, total=590)


def test_the_initial_model_is_a_row_but_not_in_the_means(record: dict[str, Any]) -> None:
    before = summarise(whole(record)).over_rounds
    initial = {"version": 0, "model": "global", "sites": {"a": part(0, 10), "b": part(0, 30)}}
    record["evaluations"].insert(0, initial)
    assert list(series(whole(record))["global_accuracy"]) == [0, 1, 2]
    assert summarise(whole(record)).over_rounds.metrics["global_accuracy"] == before.metrics["global_accuracy"]


def test_nothing_evaluated_is_none_never_nan(record: dict[str, Any]) -> None:
    record.update(evaluations=[], rounds=[], final={})
    summary = summarise(whole(record))
    assert summary.last is None
    assert summary.best is None
    assert summary.over_rounds.versions == 0
    assert set(summary.over_rounds.metrics.values()) == {None}
    assert summary.costs.up == Traffic(mean=None, max=None, total=0)
    json.dumps(asdict(summary), allow_nan=False)
