from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from consilia.cli.curves import bars, round_curves
from consilia.record.schema import Record
from tests.report.factory import make_record


def with_accuracies(label: str, correct: list[int], seed: int = 1) -> Record:
    """A run of one test site with so many of 100 cases right after round 0, 1, 2 and so on."""
    record = make_record(seed=seed, rounds=len(correct) - 1, label=label, test_only=False)
    values: dict[str, Any] = record.plain()
    site = {"validation": None, "test": {"count": 100, "auroc": None, "loss": 1.0, "balanced_accuracy": 0.5}}
    values["evaluations"] = [
        {
            "version": version,
            "model": "global",
            "sites": {
                name: {**site, "test": {**site["test"], "correct": number, "accuracy": number / 100}}
                for name in values["sites"]
            },
        }
        for version, number in enumerate(correct)
    ]
    return Record.model_validate(values)


def printed(*records: Record) -> str:
    table = round_curves(records)
    out = io.StringIO()
    Console(file=out, width=100).print(table)
    return out.getvalue()


def test_each_eighth_of_the_range_is_a_bar() -> None:
    assert bars([0.2, 0.29, 0.31, 0.95, 1.0], 0.2, 1.0) == "▁▁▂██"
    assert bars([0.5, 0.5], 0.5, 0.5) == "▁▁"


def test_a_long_run_is_a_line_of_means() -> None:
    # 100 values, two to a bar: every mean is 0.5, the middle of the range.
    assert bars([0.0, 1.0] * 50, 0.0, 1.0) == "▅" * 50


def test_methods_share_a_scale_and_the_initial_model_is_left_out() -> None:
    text = printed(with_accuracies("one", [5, 40, 80, 61]), with_accuracies("two", [5, 61, 71, 72]))
    assert "▁ is 40.0, █ is 80.0" in text
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()[:3] in ("one", "two")}
    assert lines == {"one": ["▁█▅", "40.0", "80.0", "61.0"], "two": ["▅▇▇", "61.0", "72.0", "72.0"]}


def test_seeds_are_averaged() -> None:
    text = printed(with_accuracies("one", [5, 40, 80]), with_accuracies("one", [5, 60, 90], seed=2))
    assert [line.split() for line in text.splitlines() if line.strip().startswith("one")] == [
        ["one", "▁█", "50.0", "85.0", "85.0"]
    ]


def test_one_round_is_no_curve() -> None:
    assert round_curves([with_accuracies("one", [5, 40])]) is None
