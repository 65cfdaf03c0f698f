"""What has no result is a row of the study's table, with its reason; what cannot be is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from consilia.core.errors import ConfigError, DataError, RunFailed
from consilia.core.lock import locked
from consilia.study.federations import federations_of
from consilia.study.folder import LOCK
from consilia.study.outputs import TABLES
from consilia.study.plan import plan_of
from consilia.study.running import run_study
from consilia.study.study import Study
from tests.methods.plugins import plugin
from tests.study.small_study import carried_out, federation, of, study, table

PLUGIN = Path(__file__).parent / "failing_methods.py"


def test_every_way_to_have_no_result_is_a_row_with_its_reason(tmp_path: Path) -> None:
    methods: dict[str, Any] = {
        "fedavg": {"method": "fedavg"},
        "diverging": {"method": "diverging"},
        "raising": {"method": "raising"},
        "scaffold": {"method": "scaffold", "training": {"momentum": 0.9}},
        "fedbn": {"method": "fedbn"},
        "fedntd": {"method": "fedntd"},
    }
    with plugin(PLUGIN):
        # In processes of their own, which must know the plugin, too.
        planned = carried_out(study(federation(tmp_path), methods), tmp_path / "study", jobs=2)
        again = carried_out(study(federation(tmp_path), methods), tmp_path / "study")
    expected = {
        "fedavg": ("done", ""),
        "diverging": ("failed", "holds NaN"),
        "raising": ("failed", "a mistake of its author"),
        "scaffold": ("cannot", "plain SGD"),
        "fedbn": ("cannot", "normalisation layers"),
        "fedntd": ("same as", "fedavg: with two classes"),
    }
    text = (tmp_path / "study" / TABLES).read_text()
    for label, (status, words) in expected.items():
        for found in (planned, again):
            assert of(found, label).status == status
            assert words in of(found, label).reason
        assert status == "done" or f"| {label} | 0 | 0 | {status} |" in text
    # A failed run has cost something, and is not made again; FedNTD has FedAvg's scores.
    assert (tmp_path / "study" / "diverging-seed0" / "cost.json").is_file()
    row = next(line for line in text.splitlines() if line.startswith("| fedavg |"))
    assert row.replace("fedavg", "fedntd") in text


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"tune": {"learning_rate": [0.1, -0.01]}}, "greater than 0"),
        ({"tune": {"learning_rate": [0.1]}}, "at least 2"),
        ({"tune": {"learning_rate": [0.1, 0.01]}}, "ascending"),
        ({"tune": {"rate": [0.1]}}, "learning_rate"),
        ({"folds": 1}, "greater than or equal to 2"),
        ({"folds": 2, "partitions": [0]}, "folds or partitions"),
        ({"budget": -1}, "greater than 0"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Study().changed(**keys)


def test_a_key_that_a_method_lacks_is_refused_before_the_first_run(tmp_path: Path) -> None:
    bad = study(federation(tmp_path), {"ok": {"method": "fedavg"}, "bad": {"method": {"method": "fedavg", "mu": 1}}})
    with pytest.raises(ConfigError, match=r"method bad: method\.mu: unknown key"):
        run_study(bad, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_an_absent_file_of_one_of_several_data_sets_is_a_row(tmp_path: Path) -> None:
    there, absent = federation(tmp_path / "there"), federation(tmp_path / "absent")
    (tmp_path / "absent" / "b.csv").unlink()
    both = study({"there": there, "absent": absent}, folds=2)
    planned = plan_of(federations_of(both, tmp_path / "study"), None)
    assert [(one.federation.data, one.status) for one in planned] == [
        *[("there", None)] * 2,
        *[("absent", "cannot")] * 2,
    ]
    assert "b.csv" in planned[-1].reason
    # Alone it refuses the study; and nothing is left when the file is there again.
    with pytest.raises(DataError, match=r"b\.csv"):
        run_study(study(absent, folds=2), tmp_path / "alone")
    assert not (tmp_path / "alone").exists()
    federation(tmp_path / "absent")
    assert {one.status for one in plan_of(federations_of(both, tmp_path / "study"), None)} == {None}


def test_one_class_at_a_site_and_a_fold_without_a_class(tmp_path: Path) -> None:
    one_class = table("b", 30)
    one_class["y"] = "no"
    rare = pd.concat([table("a", 60), table("r", 1, positives=1)], ignore_index=True)
    rare.loc[rare.index < 60, "y"] = "no"  # One positive at site a: all folds but one test none.
    planned = carried_out(study(federation(tmp_path, {"a": rare, "b": one_class}), folds=3), tmp_path / "study")
    assert [one.status for one in planned] == ["done"] * 3
    text = (tmp_path / "study" / TABLES).read_text()
    assert "not averaged: a, b" in text
    assert "a\\* (61 patients, 1 positive)" in text
    assert "b\\* (30 patients, 0 positive)" in text


def test_a_study_s_folder_is_one_process_s_at_a_time(tmp_path: Path) -> None:
    data = federation(tmp_path)
    with locked(tmp_path / "study" / LOCK), pytest.raises(RunFailed, match="another process runs a study"):
        run_study(study(data), tmp_path / "study")
    assert not (tmp_path / "study" / "fedavg-seed0").exists()


def test_the_budget_leaves_rows_with_their_command_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    two = study(federation(tmp_path), ("fedavg", "fedprox"), seeds=(0, 1))
    planned = carried_out(two, tmp_path / "study", budget=1e-9)
    assert [(one.label, one.seed, one.status) for one in planned] == [
        ("fedavg", 0, "done"),
        ("fedavg", 1, "not run"),
        ("fedprox", 0, "not run"),
        ("fedprox", 1, "not run"),
    ]
    text = (tmp_path / "study" / TABLES).read_text()
    assert text.count("| not run | the budget is spent | consilia compare s.yaml --only fedprox |") == 2
    before = (tmp_path / "study" / "fedavg-seed0" / "result.json").stat().st_mtime_ns
    assert {one.status for one in carried_out(two, tmp_path / "study", budget=1.0)} == {"done"}
    assert (tmp_path / "study" / "fedavg-seed0" / "result.json").stat().st_mtime_ns == before
