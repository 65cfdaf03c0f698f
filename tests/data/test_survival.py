"""Survival data: keys, values, every kind of bad row by its number, and what the site check says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from rich.console import Console

from consilia.core.errors import ConfigError, DataError
from consilia.data.check import FollowUp, check_site
from consilia.data.check_view import render
from consilia.data.loading import load_site
from consilia.data.site import load_site_config, write_site_config

ROWS = ["a,p1,40,12.5,1", "b,p2,50,30,0", "c,p3,60,7,1.0", "d,p4,70,21,0", "e,p5,45,9,1", "f,p6,55,14,1"]
SPLITS = "case_id,split\na,train\nb,train\nc,train\nd,validation\ne,test\nf,test\n"


def make_site(folder: Path, rows: list[str] = ROWS, **changes: object) -> Path:
    (folder / "cases.csv").write_text("\n".join(["id,pat,age,months,died", *rows]) + "\n")
    (folder / "splits.csv").write_text(SPLITS)
    spec = {
        "format": "tabular",
        "task": "survival",
        "file": "cases.csv",
        "case": "id",
        "patient": "pat",
        "time": "months",
        "label": {"column": "died"},
        "numeric": ["age"],
        "splits": {"file": "splits.csv"},
        **changes,
    }
    spec = {key: value for key, value in spec.items() if value is not None}
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump({"site": "h", "limits": {"min_cases_per_metric": None}, "datasets": {"os": spec}}))
    return path


def test_times_and_events_of_each_case(tmp_path: Path) -> None:
    data = load_site(make_site(tmp_path), "os")
    assert data.task == "survival"
    assert data.class_names == ("censored", "event")
    assert data.train.labels.tolist() == [[12.5, 1], [30, 0], [7, 1]]
    assert data.test.labels.tolist() == [[9, 1], [14, 1]]


def test_a_follow_up_may_end_on_its_first_day(tmp_path: Path) -> None:
    path = make_site(tmp_path, ["a,p1,40,0,0", "b,p2,50,0,1", *ROWS[2:]])
    assert load_site(path, "os").train.labels.tolist() == [[0, 0], [0, 1], [7, 1]]
    assert check_site(path)[0].errors == []


def test_events_by_other_words(tmp_path: Path) -> None:
    rows = [f"{row.rpartition(',')[0]},{'dead' if row.endswith(('1', '1.0')) else 'alive'}" for row in ROWS]
    named = make_site(tmp_path, rows, classes=["alive", "dead"])
    assert load_site(named, "os").train.labels[:, 1].tolist() == [1, 0, 1]
    label = {"column": "died", "mapping": {"dead": "event", "alive": "censored"}}
    assert load_site(make_site(tmp_path, rows, label=label), "os").train.labels[:, 1].tolist() == [1, 0, 1]


def test_a_site_file_that_is_written_says_the_same(tmp_path: Path) -> None:
    spec = load_site_config(make_site(tmp_path)).dataset("os")
    write_site_config(tmp_path / "again.yaml", "h", {"os": spec}, [], {})
    assert load_site_config(tmp_path / "again.yaml").dataset("os") == spec


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("c,p3,60,-4,1", r"row 3: time column 'months': expected a number from 0 on, got '-4'"),
        ("c,p3,60,inf,1", r"row 3: time column 'months': expected a number from 0 on, got 'inf'"),
        ("c,p3,60,soon,1", r"row 3: time column 'months': expected a number from 0 on, got 'soon'"),
        ("c,p3,60,,1", r"row 3: time column 'months': expected a number from 0 on, got no value"),
        ("c,p3,60,NA,1", r"row 3: time column 'months': expected a number from 0 on, got no value"),
        ("c,p3,60,7,2", r"row 3: label column 'died': expected one of \['0', '1'\], got '2'"),
        ("c,p3,60,7,", r"row 3: label column 'died': expected one of \['0', '1'\], got ''"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, said: str) -> None:
    path = make_site(tmp_path, [*ROWS[:2], row, *ROWS[3:]])
    with pytest.raises(DataError, match=said):
        load_site(path, "os")
    (report,) = check_site(path)
    assert len(report.errors) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"time": None}, "time, the column of the follow-up, belongs to task: survival"),
        ({"task": "classification", "classes": ["0", "1"]}, "belongs to task: survival and only to that"),
        ({"time": "age"}, "the time column 'age' cannot be a feature"),
        ({"time": "died"}, "time and label need columns of their own"),
        ({"classes": ["a", "b", "c"]}, "a survival has two classes"),
    ],
)
def test_keys_that_do_not_fit(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_site_config(make_site(tmp_path, **changes))


def test_a_time_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="weeks"):
        load_site(make_site(tmp_path, time="weeks"), "os")


def test_a_site_without_events_trains_nothing(tmp_path: Path) -> None:
    rows = [f"{row.rpartition(',')[0]},{int(row[0] in 'ef')}" for row in ROWS]
    with pytest.raises(DataError, match=r"none of the 3 training case\(s\) has the event 'event'.*set test_only: true"):
        load_site(make_site(tmp_path, rows), "os")
    (report,) = check_site(make_site(tmp_path, rows))
    assert "no case of the train split has the event" in report.errors[0]
    assert len(load_site(make_site(tmp_path, rows, test_only=True, splits=None), "os").test) == 6


def test_the_check_counts_events_and_follow_up(tmp_path: Path) -> None:
    path = make_site(tmp_path)
    (report,) = check_site(path)
    assert report.errors == []
    assert report.follow_ups == {
        "train": FollowUp(3, 2, 12.5, 30),
        "validation": FollowUp(1, 0, 21, 21),
        "test": FollowUp(2, 2, 11.5, 14),
    }
    assert "no case of the validation split has the event 'event'" in " ".join(report.warnings)
    console = Console(width=120, record=True)
    console.print(render(report))
    shown = console.export_text()
    assert "tabular, survival" in shown
    assert "median time" in shown
    assert "12.5" in shown


def test_the_check_warns_of_one_event_and_of_constant_times(tmp_path: Path) -> None:
    rows = [f"{row[0]},p{row[0]},40,5,{int(row[0] in 'ae')}" for row in ROWS]
    (report,) = check_site(make_site(tmp_path, rows))
    text = " ".join(report.warnings)
    assert "one case only of the train split has the event" in text
    assert "all cases have the same time, 5" in text


def test_metrics_are_withheld_by_the_number_of_events(tmp_path: Path) -> None:
    path = make_site(tmp_path)
    path.write_text(path.read_text().replace("min_cases_per_metric: null", "min_cases_per_metric: 3"))
    (report,) = check_site(path)
    assert any("test cases leave this site: there are 2 with the event" in warning for warning in report.warnings)


def test_splits_are_stratified_by_event(tmp_path: Path) -> None:
    rows = [f"c{i:03},p{i:03},{40 + i % 30},{i + 1},{int(i % 5 == 0)}" for i in range(200)]  # 20 % events
    data = load_site(make_site(tmp_path, rows, splits={"validation": 0.2, "test": 0.3}), "os")
    found = {name: (len(data.split(name)), int(data.split(name).labels[:, 1].sum())) for name in ("validation", "test")}
    assert found == {"validation": (40, 8), "test": (60, 12)}


def test_another_order_of_rows_without_ids_is_noticed(tmp_path: Path) -> None:
    path = make_site(tmp_path, case=None, splits=None)
    load_site(path, "os")
    swapped = [ROWS[0].replace("12.5", "13"), *ROWS[1:]]
    with pytest.raises(DataError, match="hold other values or labels"):
        load_site(make_site(tmp_path, swapped, case=None, splits=None), "os")


def test_the_fingerprint_is_of_times_too(tmp_path: Path) -> None:
    first = load_site(make_site(tmp_path), "os").fingerprint()
    assert load_site(make_site(tmp_path, [ROWS[0].replace("12.5", "13"), *ROWS[1:]]), "os").fingerprint() != first
