"""The site check: the numbers by hand, every problem at once, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from rich.console import Console

from consilia.core.errors import ConfigError
from consilia.data.check import DatasetReport, MaskCounts, check_site, withheld
from consilia.data.check_view import render


def make_site(root: Path, rows: list[str], splits: str | None = None, **changes: object) -> Path:
    (root / "cases.csv").write_text("\n".join(["id,pat,age,dx", *rows]) + "\n")
    spec = {
        "format": "tabular",
        "file": "cases.csv",
        "case": "id",
        "patient": "pat",
        "classes": ["no", "yes"],
        "label": {"column": "dx"},
        "numeric": ["age"],
        **changes,
    }
    if splits is not None:
        (root / "splits.csv").write_text("case_id,split\n" + splits)
        spec["splits"] = {"file": "splits.csv"}
    path = root / "site.yaml"
    path.write_text(yaml.safe_dump({"site": "h", "datasets": {"diagnosis": spec}}))
    return path


ROWS = ["a,p1,30,no", "b,p1,31,no", "c,p2,,yes", "d,p3,33,no", "e,p4,34,yes"]


def test_numbers(tmp_path: Path) -> None:
    path = make_site(tmp_path, ROWS, "a,train\nb,train\nc,train\nd,validation\ne,test\n")
    (report,) = check_site(path)
    assert report.errors == []
    assert (report.cases, report.patients, report.shared_patients) == (5, 4, 0)
    assert report.counts == {
        "train": {"no": 2, "yes": 1},
        "validation": {"no": 1, "yes": 0},
        "test": {"no": 0, "yes": 1},
    }
    assert report.split_patients == {"train": 2, "validation": 1, "test": 1}
    assert report.missing == {"age": 1}
    assert report.input_shape == (1,)
    assert "the test split has one class only ('yes')" in report.warnings


def test_nothing_is_written(tmp_path: Path) -> None:
    path = make_site(tmp_path, ROWS)
    before = sorted(tmp_path.rglob("*"))
    (report,) = check_site(path)
    assert report.splits_from == "to be drawn at the first load"
    assert sorted(tmp_path.rglob("*")) == before


def test_all_problems_at_once(tmp_path: Path) -> None:
    rows = ["a,p1,30,no", "b,p1,old,no", "c,p2,32,maybe", "d,p3,33,no", "e,p4,34,yes"]
    path = make_site(tmp_path, rows, "a,train\nb,test\nc,train\nd,train\ne,train\n")
    (report,) = check_site(path)
    text = "\n".join(report.errors)
    assert "row 3: label column 'dx': expected one of ['no', 'yes'], got 'maybe'" in text
    assert "row 2: column 'age': expected a number, got 'old'" in text
    assert "patient 'p1' is in test and train" in text
    assert report.shared_patients == 1
    assert len(report.errors) == 3


def test_empty_split(tmp_path: Path) -> None:
    (report,) = check_site(make_site(tmp_path, ROWS[:3]))
    assert any(error.startswith("the validation split is empty") for error in report.errors)


def test_missing_file_and_unknown_dataset(tmp_path: Path) -> None:
    path = make_site(tmp_path, ROWS, file="none.csv")
    assert "none.csv: no such file" in check_site(path)[0].errors[0]
    with pytest.raises(ConfigError, match="no dataset 'other'"):
        check_site(path, ["other"])


def test_one_class_and_copies_are_warnings(tmp_path: Path) -> None:
    rows = [f"{name},p{i},30,no" for i, name in enumerate("abcde")]
    (report,) = check_site(make_site(tmp_path, rows))
    assert report.errors == []
    assert "all cases are 'no': the site has one class only" in report.warnings
    assert any("exactly the values of a training case" in warning for warning in report.warnings)


def test_metrics_that_would_be_withheld_are_told_with_what_lets_them_leave(tmp_path: Path) -> None:
    rows = [f"c{i},p{i},{20 + i},{'yes' if i % 10 < 3 else 'no'}" for i in range(60)]
    splits = "".join(f"c{i},{'train' if i < 20 else 'validation' if i < 50 else 'test'}\n" for i in range(60))
    # Classes "yes": 6 of 20 in training, 9 of 30 in validation, 3 of 10 in the test.
    path = make_site(tmp_path, rows, splits)
    (report,) = check_site(path)
    validation, test = report.warnings
    assert validation.startswith("no metrics of the validation cases leave this site: there are 9 of class 'yes', ")
    assert "is 10. To let them leave: larger splits, or limits.min_cases_per_metric: 9 in site.yaml" in validation
    assert "there are 3 of class 'yes'" in test
    path.write_text(path.read_text() + "limits: {min_cases_per_metric: 9}\n")
    (report,) = check_site(path)
    assert report.warnings == [test.replace("is 10", "is 9")]


def test_empty_masks_do_not_count_as_cases_of_a_metric() -> None:
    masks = {"train": MaskCounts(100, 0, 0.1), "validation": MaskCounts(20, 10, 0.1), "test": MaskCounts(20, 11, 0.1)}
    report = DatasetReport("hospital-1", "structure", "images", ("background", "lesion"), masks=masks)
    (warned,) = withheld(report, 10)
    assert "the test cases leave this site: there are 9 with a structure" in warned
    assert withheld(report, 9) == withheld(report, None) == []


def test_render(tmp_path: Path) -> None:
    console = Console(width=120, record=True, file=(tmp_path / "out.txt").open("w"))
    path = make_site(tmp_path, ["[a],[red],30,no", *ROWS[1:]])
    console.print(render(check_site(path)[0]))
    shown = console.export_text()
    assert "h / diagnosis (tabular)" in shown
    assert "patients" in shown
    assert "ready" in shown
