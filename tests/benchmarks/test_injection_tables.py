"""The tables of FedKIM's results, from records made by hand."""

from __future__ import annotations

from typing import Any

from benchmarks.injection_tables import tables


def record(auroc: float, seed: int = 0) -> dict[str, Any]:
    metrics = {"auroc": auroc, "intervals": {"auroc": [auroc - 0.1, auroc + 0.1]}}
    answers = {"seen-1": {"closed": metrics}, "unseen-1": {"closed": metrics, "open": None}}
    return {
        "run": {"label": "fedkim", "seed": seed, "seconds": 9.6},
        "last_round": {"seconds": {"sites": 3.2}, "bytes_up": {"a": 1_500_000, "b": 2_000_000}},
        "injection": {
            "seen": ["seen-1"],
            "unseen": ["unseen-1"],
            "parameters": {"experts": 1000, "router": 234},
            "rounds": [{"seconds": 4.4}],
            "test": {"injected": answers, "extractor": {"seen-1": {"closed": {"auroc": 0.75, "intervals": {}}}}},
            "few_shot": {"unseen-1": {"8": {"closed": metrics}, "all": {"closed": {"auroc": None, "intervals": {}}}}},
        },
    }


def test_one_seed_shows_its_interval_and_several_their_spread() -> None:
    one = tables({"fedkim": [record(0.6)]})
    assert "| fedkim | 0.600 [0.50, 0.70] | 0.600 |" in one["Seen tasks"]
    assert "| small model alone (fedkim) | 0.750 | 0.750 |" in one["Seen tasks"]
    assert "linear" not in one["Seen tasks"]
    two = tables({"fedkim": [record(0.6), record(0.8, seed=1)]})
    assert "| fedkim | 0.700 ± 0.141 | 0.700 |" in two["Unseen tasks"]


def test_few_shots_start_with_none_and_undefined_is_a_dash() -> None:
    table = tables({"fedkim": [record(0.6)]})["A few labelled cases"]
    assert "|  | fedkim, 0 | fedkim, 8 | fedkim, all |" in table
    assert "| unseen-1 | 0.600 [0.50, 0.70] | 0.600 [0.50, 0.70] | – |" in table


def test_costs_are_the_largest_update_and_the_last_round() -> None:
    assert "| fedkim | 1,234 | 2.00 | 3 | 4 | 10 |" in tables({"fedkim": [record(0.6)]})["Sites and seconds"]
