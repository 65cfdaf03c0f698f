"""Rows over seeds: mean and sample standard deviation by hand, and the Markdown table."""

from __future__ import annotations

import pytest

from consilia.core.errors import ConfigError
from consilia.evaluation.compare import Spread, columns, comparison_table, to_markdown
from consilia.record.schema import Record
from tests.evaluation.records import whole


def run(label: str, seed: int, correct: int, method: str = "m", final: bool = True) -> Record:
    accuracy = {"accuracy": correct / 100, "balanced_accuracy": 0.5, "auroc": None, "loss": None}
    metrics = {"count": 100, "correct": correct, **accuracy}
    last = {"version": 1, "sha256": "", "global": {"a": {"validation": None, "test": metrics}}, "personal": {}}
    return whole(
        {
            "run": {"id": f"{label}-{seed}", "label": label, "method": method, "seed": seed, "seconds": 1.0},
            "sites": {"a": {}},
            "final": {"last": last} if final else {},
        }
    )


def test_mean_and_sample_sd() -> None:
    rows = comparison_table([run("B", 1, 60), run("A", 1, 80), run("B", 2, 70), run("B", 3, 80)])
    assert [(row.label, row.seeds) for row in rows] == [("B", [1, 2, 3]), ("A", [1])]
    found = rows[0].spread("last", "global_accuracy")
    assert found == Spread(pytest.approx(0.7), pytest.approx(0.1), 3)  # sqrt((.01 + 0 + .01) / 2)
    assert rows[1].spread("last", "global_accuracy") == Spread(0.8, None, 1)
    assert rows[0].spread("last", "global_auroc") == Spread(None, None, 0)


def test_markdown() -> None:
    rows = comparison_table([run("A|x", 1, 60), run("A|x", 2, 62)])
    lines = to_markdown(rows, columns("classification", "last", ["global_accuracy", "global_auroc"])).splitlines()
    assert lines[0] == "| | seeds | Global accuracy,\u00a0G | Global AUROC |"
    assert lines[2] == "| A\\|x | 2 | 61.0 ± 1.4 % | – |"


def test_a_value_missing_for_one_seed_is_counted() -> None:
    rows = comparison_table([run("A", 1, 60), run("A", 2, 60, final=False)])
    text = to_markdown(rows, columns("classification", "last", ["global_accuracy"]))
    assert "60.0 % (n = 1)" in text


def test_one_label_for_two_methods_or_one_seed_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"A-1 and A-1 share the label 'A'.*different seeds"):
        comparison_table([run("A", 1, 60), run("A", 1, 60)])
    with pytest.raises(ConfigError, match="got fedavg, seed 1 and fedkper, seed 2"):
        comparison_table([run("A", 1, 60, "fedavg"), run("A", 2, 60, "fedkper")])
