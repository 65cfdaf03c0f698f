"""The summary of a small record whose every figure can be worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from consilia.evaluation.rounds import round_figures
from consilia.evaluation.summary import summarise


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
        "sites": {"a": {"evaluator": False}, "b": {"evaluator": False}},
        "rounds": [round_of(1, ["a"], 100), round_of(2, ["a", "b"], 200)],
        "evaluations": evaluations,
        "final": {"last": last},
    }


def test_final_figures(record: dict[str, Any]) -> None:
    last = summarise(record)["last"]
    assert last["global_accuracy"] == 28 / 40  # counts pooled, not the mean of 0.4 and 0.8
    assert last["global_balanced_accuracy"] == pytest.approx(0.3)
    assert (last["global_auroc"], last["global_auroc_sites"], last["global_sites"]) == (0.6, 1, 2)
    assert last["personal_accuracy"] == pytest.approx(0.8)  # sites count alike
    assert last["personal_auroc"] == pytest.approx(0.85)
    assert last["worst_site"] == {"site": "a", "accuracy": 0.7}
    assert last["worst_site_global"] == {"site": "a", "accuracy": 0.4}
    assert last["balance"] == pytest.approx(0.75)


def test_over_rounds(record: dict[str, Any]) -> None:
    figures = summarise(record)["over_rounds"]
    assert figures["versions"] == 2
    assert figures["global_accuracy"] == pytest.approx((20 / 40 + 28 / 40) / 2)
    assert figures["personal_accuracy"] == pytest.approx((0.8 + (0.6 + 0.9) / 2) / 2)
    assert figures["worst_accuracy"] == pytest.approx((0.8 + 0.6) / 2)
    # The first evaluation has 0 flips; then 6 of 40 cases for the global model.
    assert figures["nfr_global"] == pytest.approx((0 + 6 / 40) / 2)
    # Round 1: a's first, 0 of 10. Round 2: a's 3, and b's first with 0, of 40 cases.
    assert figures["nfr_personal"] == pytest.approx((0 + 3 / 40) / 2)
    # Version 1: nobody earlier, 0. Version 2: a trained in round 1: 0.4 - 0.5.
    assert figures["bwt"] == pytest.approx(-0.05)
    assert figures["consistency_global"] == 1.0
    # a: 0.8 to 0.6 is a drop of a quarter; b has one evaluation only and does not count.
    assert figures["consistency_personal"] == pytest.approx(0.75)
    assert figures["rounds_to_within_1_percent"] is None  # no AUROC


def test_convergence_goes_by_the_global_auroc(record: dict[str, Any]) -> None:
    first, second = (record["evaluations"][place]["sites"] for place in (0, 2))
    first["a"]["test"]["auroc"], first["b"]["test"]["auroc"] = 0.80, 0.69  # mean 0.745
    second["a"]["test"]["auroc"], second["b"]["test"]["auroc"] = 0.75, 0.75
    assert [row["global_auroc"] for row in round_figures(record)] == pytest.approx([0.745, 0.75])
    assert summarise(record)["over_rounds"]["rounds_to_within_1_percent"] == 1


def test_costs(record: dict[str, Any]) -> None:
    summary = summarise(record)
    assert summary["bytes"]["down"] == {"mean": pytest.approx(500 / 3), "max": 200, "total": 500}
    assert summary["bytes"]["total"] == 1500
    assert summary["seconds"] == {"run": 42.0, "phases": {"train": {"mean": 4.5, "total": 9.0}}}


def test_evaluators_decide_the_global_figures_and_have_no_personal_model(record: dict[str, Any]) -> None:
    record["sites"]["x"] = {"evaluator": True}
    record["final"]["last"]["global"]["x"] = part(9, 12, auroc=0.7)
    last = summarise(record)["last"]
    assert last["global_accuracy"] == 0.75
    assert last["global_auroc"] == 0.7
    assert last["personal_sites"] == 2
    assert last["worst_site_global"]["site"] == "a"


def test_the_initial_model_is_a_row_but_not_in_the_means(record: dict[str, Any]) -> None:
    before = summarise(record)["over_rounds"]["global_accuracy"]
    initial = {"version": 0, "model": "global", "sites": {"a": part(0, 10), "b": part(0, 30)}}
    record["evaluations"].insert(0, initial)
    assert [row["version"] for row in round_figures(record)] == [0, 1, 2]
    assert summarise(record)["over_rounds"]["global_accuracy"] == before


def test_nothing_evaluated_is_none_never_nan(record: dict[str, Any]) -> None:
    record.update(evaluations=[], rounds=[], final={})
    summary = summarise(record)
    assert summary["last"] is None
    assert summary["best"] is None
    assert set(summary["over_rounds"].values()) == {0, None}
    assert summary["bytes"]["up"] == {"mean": None, "max": None, "total": 0}
    json.dumps(summary, allow_nan=False)
