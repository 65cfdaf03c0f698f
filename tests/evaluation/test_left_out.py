"""The table of a study that leaves out several sites in turn, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from consilia.evaluation.left_out import left_out_values, mean_over_sites, rows_by_site
from consilia.record.schema import Record
from tests.evaluation.records import whole


def record(site: str, seed: int, correct: int) -> Record:
    test = {"count": 10, "correct": correct, "accuracy": correct / 10, "balanced_accuracy": 0.5, "auroc": None}
    final: dict[str, Any] = {
        "last": {
            "version": 1,
            "sha256": "",
            "global": {site: {"validation": None, "test": {**test, "loss": 1.0}}},
            "personal": {},
            "variants": {},
        }
    }
    run = {"label": "fedavg", "seed": seed}
    return whole(
        {"run": run, "sites": {"a": {"test_only": site == "a"}, "b": {"test_only": site == "b"}}, "final": final}
    )


RUNS = [("b", record("b", 0, 9)), ("b", record("b", 1, 7)), ("a", record("a", 0, 5)), ("a", record("a", 1, 5))]


def test_a_row_per_left_out_site_and_their_mean() -> None:
    by_site = rows_by_site(RUNS)["fedavg"]
    assert list(by_site) == ["b", "a"]
    assert by_site["b"].spread("last", "global_accuracy").mean == 0.8
    assert mean_over_sites(by_site.values(), "last", "global_accuracy").mean == (0.8 + 0.5) / 2
    assert mean_over_sites(by_site.values(), "last", "global_auroc").mean is None


def test_the_file_has_every_metric_and_blanks_for_what_is_undefined() -> None:
    heading, rows = left_out_values(RUNS)
    assert [row[:3] for row in rows] == [["fedavg", "b", 2], ["fedavg", "a", 2], ["fedavg", "mean", ""]]
    accuracy, balance = heading.index("global_accuracy"), heading.index("balance")
    assert [row[accuracy] for row in rows] == [0.8, 0.5, 0.65]
    assert [row[accuracy + 1] for row in rows] == [pytest.approx(0.02**0.5), 0.0, ""]
    assert {row[balance] for row in rows} == {""}
