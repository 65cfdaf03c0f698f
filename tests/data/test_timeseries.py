"""Parquet time series: cut, continued, filled forward, standardised; labels over several rows; the joined table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from consilia.core.errors import DataError
from consilia.data.loading import load_new_cases, load_site

pytest.importorskip("pyarrow", reason="the timeseries extra is not installed")

NAN = np.nan


def make_site(folder: Path, **changes: object) -> Path:
    values = pd.DataFrame(
        [
            (1, 0, 1.0, NAN),
            (1, 1, NAN, 4.0),
            (1, 2, 3.0, NAN),
            (1, 3, 99.0, 99.0),  # beyond the three steps
            (2, 1, 7.0, NAN),  # rows out of order
            (2, 0, 5.0, NAN),
            (3, 0, 2.0, 2.0),
            (4, 0, 1.0, 8.0),
        ],
        columns=["stay", "time", "hr", "lact"],
    )
    values["time"] = pd.to_timedelta(values["time"], unit="h")
    values.to_parquet(folder / "dyn.parquet")
    outcomes = pd.DataFrame({"stay": [1, 1, 2, 2, 3, 4], "label": [False, True, False, False, True, False]})
    outcomes.to_parquet(folder / "outc.parquet")
    (folder / "stays.csv").write_text("stay,patient,region\n1,a,x\n2,b,x\n3,c,x\n4,d,x\n9,e,x\n")
    (folder / "splits.csv").write_text("case_id,split\n1,train\n2,train\n3,validation\n4,test\n")
    spec = {
        "format": "timeseries",
        "values": "dyn.parquet",
        "outcomes": "outc.parquet",
        "cases": "stays.csv",
        "id": "stay",
        "time": "time",
        "features": ["hr", "lact"],
        "steps": 3,
        "patient": "patient",
        "classes": ["no", "yes"],
        "label": {"column": "label", "mapping": {"False": "no", "True": "yes"}},
        "any_row": "yes",
        "splits": {"file": "splits.csv"},
        **changes,
    }
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump({"site": "h", "datasets": {"diagnosis": spec}}))
    return path


def test_values_by_hand(tmp_path: Path) -> None:
    data = load_site(make_site(tmp_path), "diagnosis")
    # Stay 1: hr 1 1 3, lact - 4 4; stay 2: hr 5 7 7, lact never. Mean of lact 4 without spread, so std counts as 1.
    hr = np.array([[1, 1, 3], [5, 7, 7.0]])
    assert data.train.inputs[:, :, 0].numpy() == pytest.approx((hr - hr.mean()) / hr.std(), abs=1e-6)
    assert data.train.inputs[:, :, 1].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert data.test.inputs[0, :, 1].tolist() == [4, 4, 4]  # 8 minus the mean 4
    assert data.test.inputs[0, :, 0].numpy() == pytest.approx(np.full(3, (1 - hr.mean()) / hr.std()), abs=1e-6)


def test_a_case_has_the_class_of_any_row(tmp_path: Path) -> None:
    data = load_site(make_site(tmp_path), "diagnosis")
    assert data.train.case_ids == ("1", "2")
    assert data.train.labels.tolist() == [1, 0]
    with pytest.raises(DataError, match="case 1: its rows disagree on 'label'; see any_row"):
        load_site(make_site(tmp_path, any_row=None), "diagnosis")


def test_far_values_are_limited(tmp_path: Path) -> None:
    path = make_site(tmp_path)
    values = pd.read_parquet(tmp_path / "dyn.parquet")
    values.loc[values["stay"] == 4, "lact"] = 1e6
    values.to_parquet(tmp_path / "dyn.parquet")
    assert load_site(path, "diagnosis").test.inputs[0, :, 1].tolist() == [10, 10, 10]


def test_problems(tmp_path: Path) -> None:
    path = make_site(tmp_path)
    values = pd.read_parquet(tmp_path / "dyn.parquet")
    pd.concat([values[values["stay"] != 4], values.iloc[:1]]).to_parquet(tmp_path / "dyn.parquet")
    with pytest.raises(DataError) as caught:
        load_site(path, "diagnosis")
    assert "no row for case 4 of outc.parquet" in str(caught.value)
    assert "case 1 has two rows of the same 'time'" in str(caught.value)
    with pytest.raises(DataError, match=r"column\(s\) \['spo2'\] missing"):
        load_site(make_site(tmp_path, features=["hr", "spo2"]), "diagnosis")
    path = make_site(tmp_path)
    (tmp_path / "stays.csv").write_text("stay,patient,region\n1,a,x\n2,b,x\n3,c,x\n")
    with pytest.raises(DataError, match=r"stays.csv: no row for case 4 of outc.parquet"):
        load_site(path, "diagnosis")


def test_new_cases(tmp_path: Path) -> None:
    path = make_site(tmp_path)
    data = load_site(path, "diagnosis")
    new = load_new_cases(path, "diagnosis", tmp_path / "dyn.parquet")
    ids, inputs = list(new.ids), new.inputs
    assert ids == ["1", "2", "3", "4"]
    assert (inputs[3] == data.test.inputs[0]).all()
