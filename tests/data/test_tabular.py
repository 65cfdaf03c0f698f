"""Delimited text: missing marks, imputation and scaling against NumPy, one-hot layout, errors by row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from consilia.core.errors import ConfigError, DataError
from consilia.data.check import check_site
from consilia.data.loading import load_dataset, load_new_cases, load_site, preprocessing_file
from consilia.data.preprocessing import Preprocessing
from consilia.data.readers.tabular import TabularReader
from consilia.data.site import load_site_config

HEADER = "id,pat,age,chol,sex,num"
ROWS = [
    "a,1,40.0,200,1,0",
    "b,2,50,0,1.0,1",
    "c,3,?,220,0,0",
    "d,4,70,300,?,2",
    "e,5,30,250,0,0",
    "f,6,60,NA,1,1",
]
SPLITS = "case_id,split\na,train\nb,train\nc,train\nd,train\ne,validation\nf,test\n"


def make_site(folder: Path, rows: list[str] | None = None, **changes: object) -> Path:
    (folder / "cases.csv").write_text("\n".join([HEADER, *(rows or ROWS)]) + "\n")
    (folder / "splits.csv").write_text(SPLITS)
    spec = {
        "format": "tabular",
        "file": "cases.csv",
        "case": "id",
        "patient": "pat",
        "classes": ["absent", "present"],
        "label": {"column": "num", "mapping": {"0": "absent", "1": "present", "2": "present"}},
        "numeric": ["age", "chol"],
        "categorical": {"sex": ["0", "1"]},
        "missing_values": {"chol": ["0"]},
        "missing_indicators": True,
        "splits": {"file": "splits.csv"},
        **changes,
    }
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump({"site": "h", "datasets": {"diagnosis": spec}}))
    return path


def test_values_by_hand(tmp_path: Path) -> None:
    data = load_site(make_site(tmp_path), "diagnosis")
    # Training rows a-d: age 40, 50, ?, 70 (median 50); chol 200, 0 = missing, 220, 300 (median 220).
    age, chol = np.array([40, 50, 50, 70.0]), np.array([200, 220, 220, 300.0])
    expected = np.stack(
        [
            (age - age.mean()) / age.std(),
            (chol - chol.mean()) / chol.std(),
            [0, 0, 1, 0],
            [0, 1, 0, 0],
            [0, 0, 1, 0],  # sex=0
            [1, 1, 0, 0],  # sex=1; d is missing: neither
        ],
        axis=1,
    )
    assert data.train.inputs.numpy() == pytest.approx(expected, abs=1e-6)
    assert data.train.labels.tolist() == [0, 1, 0, 1]
    assert data.test.case_ids == ("f",)
    assert data.test.inputs[0].numpy() == pytest.approx(
        [(60 - age.mean()) / age.std(), (220 - chol.mean()) / chol.std(), 0, 1, 0, 1], abs=1e-6
    )


def test_a_column_without_any_value_becomes_zero(tmp_path: Path) -> None:
    rows = [",".join([*row.split(",")[:3], "?", *row.split(",")[4:]]) for row in ROWS]
    data = load_site(make_site(tmp_path, rows), "diagnosis")
    assert data.train.inputs[:, 1].tolist() == [0, 0, 0, 0]
    assert data.train.inputs[:, 3].tolist() == [1, 1, 1, 1]


def test_a_file_without_header(tmp_path: Path) -> None:
    path = make_site(tmp_path, columns=HEADER.split(","))
    (tmp_path / "cases.csv").write_text("\n".join(ROWS) + "\n")
    assert load_site(path, "diagnosis").train.labels.tolist() == [0, 1, 0, 1]
    (tmp_path / "cases.csv").write_text("1,2\n")
    with pytest.raises(DataError, match="columns names 6 columns, the file has 2"):
        load_site(path, "diagnosis")


def test_every_problem_names_row_and_column(tmp_path: Path) -> None:
    rows = ["a,1,forty,200,1,0", "b,2,50,0,2,7", *ROWS[2:]]
    with pytest.raises(DataError, match=r"row 2: label column 'num': expected one of \['0', '1', '2'\], got '7'"):
        load_site(make_site(tmp_path, rows), "diagnosis")
    rows[1] = "b,2,inf,0,2,1"
    with pytest.raises(DataError) as caught:
        load_site(make_site(tmp_path, rows), "diagnosis")
    message = str(caught.value)
    assert "row 1: column 'age': expected a number, got 'forty'" in message
    assert "row 2: column 'age': expected a number, got 'inf'" in message
    assert "row 2: column 'sex': expected one of ['0', '1'], got '2'" in message


def test_missing_values_can_be_forbidden(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 3: column 'age': the value is missing \('\?'\)"):
        load_site(make_site(tmp_path, numeric_missing="error"), "diagnosis")


def test_missing_file_and_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column\(s\) \['bmi', 'ward'\] missing"):
        load_site(make_site(tmp_path, numeric=["age", "chol", "bmi"], patient="ward"), "diagnosis")
    with pytest.raises(DataError, match=r"none.csv: no such file"):
        load_site(make_site(tmp_path, file="none.csv"), "diagnosis")


def test_duplicate_ids_and_empty_patients(tmp_path: Path) -> None:
    rows = [*ROWS[:4], "a,,30,250,0,0", ROWS[5]]
    with pytest.raises(DataError) as caught:
        load_site(make_site(tmp_path, rows), "diagnosis")
    assert "row 5: case id 'a' is already in row 1" in str(caught.value)
    assert "row 5: column 'pat' is empty" in str(caught.value)


def test_new_cases_use_the_fitted_values(tmp_path: Path) -> None:
    path = make_site(tmp_path)
    new = tmp_path / "new.csv"
    new.write_text("id,age,chol,sex\nz,60,0,1\n")
    with pytest.raises(DataError, match=r"preprocessing.json is not there: it is written when the site trains"):
        load_new_cases(path, "diagnosis", new)
    data = load_site(path, "diagnosis")
    new = load_new_cases(path, "diagnosis", new)
    ids, inputs = list(new.ids), new.inputs
    assert ids == ["z"]
    assert inputs[0].tolist() == data.test.inputs[0].tolist()  # the same values as case f
    make_site(tmp_path, missing_indicators=False)
    with pytest.raises(DataError, match=r"\['missing_indicators'\] changed in site.yaml"):
        load_new_cases(path, "diagnosis", new)


def test_new_cases_use_the_preprocessing_a_model_was_trained_with(tmp_path: Path) -> None:
    path, new = make_site(tmp_path), tmp_path / "new.csv"
    new.write_text("id,age,chol,sex\nz,60,0,1\n")
    first = load_site(path, "diagnosis")
    current = preprocessing_file(load_site_config(path), "diagnosis")
    assert current == tmp_path / "state" / "diagnosis" / "preprocessing.json"
    kept = tmp_path / "kept.json"
    kept.write_bytes(current.read_bytes())
    make_site(tmp_path, ["a,1,90,200,1,0", *ROWS[1:]])  # another age in train: mean and deviation move
    load_site(path, "diagnosis")
    assert load_new_cases(path, "diagnosis", new).inputs[0].tolist() != first.test.inputs[0].tolist()
    inputs = load_new_cases(path, "diagnosis", new, preprocessing=kept).inputs
    assert inputs[0].tolist() == first.test.inputs[0].tolist()  # the same values as case f
    make_site(tmp_path, missing_indicators=False)
    with pytest.raises(DataError, match=r"\['missing_indicators'\] changed in site.yaml since .*kept.json"):
        load_new_cases(path, "diagnosis", new, preprocessing=kept)
    with pytest.raises(DataError, match=r"none.json is not there"):
        load_new_cases(path, "diagnosis", new, preprocessing=tmp_path / "none.json")


def plain_rows() -> list[str]:
    return [f"x,p{i},{20 + i},200,{i % 2},{i % 2}" for i in range(20)]


def test_row_numbers_do_not_carry_splits_to_another_order(tmp_path: Path) -> None:
    # Without a case column the ids are row numbers: the same file, sorted anew, would pass training cases for test.
    rows = plain_rows()
    path = make_site(tmp_path, rows, case=None, patient=None, splits={})
    load_site(path, "diagnosis")
    saved = tmp_path / "state" / "diagnosis" / "splits.csv"
    assert saved.read_text().startswith("case_id,patient,split,content\nrow-1,row-1,")
    load_site(path, "diagnosis")  # unchanged data are accepted
    make_site(tmp_path, [row.replace(",200,", ", 200.0,") for row in rows], case=None, patient=None, splits={})
    load_site(path, "diagnosis")  # so is another spelling of the same values
    make_site(tmp_path, [*rows[:5], rows[6], rows[5], *rows[7:]], case=None, patient=None, splits={})
    message = r"splits.csv: 2 of 20 case\(s\) hold other values or labels .*key `case`.* move this file away"
    with pytest.raises(DataError, match=message):
        load_site(path, "diagnosis")
    assert any("2 of 20 case(s) hold other values" in error for error in check_site(path)[0].errors)
    saved.unlink()
    load_site(path, "diagnosis")


def test_a_case_column_makes_the_order_free(tmp_path: Path) -> None:
    rows = [row.replace("x", f"id-{i}", 1) for i, row in enumerate(plain_rows())]
    path = make_site(tmp_path, rows, splits={})
    first = load_site(path, "diagnosis")
    assert (tmp_path / "state" / "diagnosis" / "splits.csv").read_text().startswith("case_id,patient,split\n")
    make_site(tmp_path, rows[::-1], splits={})
    assert set(load_site(path, "diagnosis").test.case_ids) == set(first.test.case_ids)


def test_splits_written_by_hand_need_no_content(tmp_path: Path) -> None:
    path = make_site(tmp_path, case=None)
    rows = [f"row-{i},{split}" for i, split in enumerate(["train"] * 4 + ["validation", "test"], start=1)]
    (tmp_path / "splits.csv").write_text("\n".join(["case_id,split", *rows]) + "\n")
    assert load_site(path, "diagnosis").test.case_ids == ("row-6",)


def test_what_a_site_keeps_is_for_its_owner_alone(tmp_path: Path) -> None:
    load_site(make_site(tmp_path, plain_rows(), case=None, splits={}), "diagnosis")
    kept = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "state" / "diagnosis").iterdir()}
    assert kept == {"splits.csv": 0o600, "preprocessing.json": 0o600}


def test_labels_by_contained_text(tmp_path: Path) -> None:
    rows = ["a,1,40,200,1,'NORM': 1", *(row.rsplit(",", 1)[0] + ",'MI': 1" for row in ROWS[1:])]
    label = {"column": "num", "contains": "'NORM'", "then": "absent", "otherwise": "present"}
    assert load_site(make_site(tmp_path, rows, label=label), "diagnosis").train.labels.tolist() == [0, 1, 1, 1]
    rows[1] = ROWS[1].rsplit(",", 1)[0] + ","
    with pytest.raises(DataError, match="row 2: label column 'num': expected a text, got ''"):
        load_site(make_site(tmp_path, rows, label=label), "diagnosis")


def test_a_test_only_site_has_test_cases_only(tmp_path: Path) -> None:
    data = load_site(make_site(tmp_path, test_only=True, splits={}), "diagnosis")
    assert data.is_test_only
    assert (len(data.train), len(data.validation), len(data.test)) == (0, 0, 6)
    assert data.test.inputs[:, 0].mean().item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,age\na,1,5\nb,2,5\n", "the rows have more fields than the header"),
        ("id,age\na,1\nb,2,5\n", "cannot be read as delimited text: .*line 3"),
        ("", "cannot be read as delimited text"),
    ],
)
def test_ragged_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = make_site(tmp_path)
    (tmp_path / "cases.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        load_site(path, "diagnosis")


def test_further_files_have_ids_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "west.csv").write_text("\n".join([HEADER, *ROWS[:2]]) + "\n")
    splits = {"validation": 0.2, "test": 0.2}
    path = make_site(tmp_path, more_files=["west.csv"], case=None, patient=None, splits=splits)
    data = load_site(path, "diagnosis")
    ids = {case for part in (data.train, data.validation, data.test) for case in part.case_ids}
    assert ids == {*(f"row-cases-{i}" for i in range(1, 7)), "row-west-1", "row-west-2"}
    (tmp_path / "west.csv").write_text("\n".join([HEADER, "g,7,old,200,1,0"]) + "\n")
    (report,) = check_site(make_site(tmp_path, more_files=["west.csv"], splits=splits))
    assert any("row west-1: column 'age': expected a number, got 'old'" in error for error in report.errors)
    (tmp_path / "west.csv").write_text("id,pat,age,sex,num\n")
    with pytest.raises(DataError, match=r"west.csv: column\(s\) \['chol'\] missing"):
        load_site(make_site(tmp_path, more_files=["west.csv"], splits=splits), "diagnosis")


def test_a_label_that_contains_one_of_several_texts(tmp_path: Path) -> None:
    label = {"column": "num", "contains": ["1", "2"], "then": "present", "otherwise": "absent"}
    data = load_site(make_site(tmp_path, label=label), "diagnosis")
    assert dict(zip(data.train.case_ids, data.train.labels.tolist(), strict=True)) == {"a": 0, "b": 1, "c": 0, "d": 1}
    assert data.train.patients == ("1", "2", "3", "4")


def test_rows_that_lack_a_value_are_left_out(tmp_path: Path) -> None:
    changes = {
        "missing_rows": "drop",
        "missing_indicators": False,
        "splits": {"validation": 0, "test": 0.5},
        "patient": None,
    }
    data = load_site(make_site(tmp_path, **changes), "diagnosis")
    # c lacks its age, b its cholesterol, d its sex, f its cholesterol.
    assert sorted([*data.train.case_ids, *data.test.case_ids]) == ["a", "e"]
    new = tmp_path / "new.csv"
    new.write_text("id,age,chol,sex\ny,60,,1\nz,60,210,1\n")
    found = load_new_cases(tmp_path / "site.yaml", "diagnosis", new, skip_unreadable=True)
    assert (found.ids, list(found.failed)) == (("z",), ["y"])
    assert "row 1: a value is missing, and missing_rows is drop" in found.failed["y"]


def test_first_levels_can_be_dropped_and_all_inputs_standardised(tmp_path: Path) -> None:
    changes = {"first_level": "drop", "standardise": "all", "deviation": "sample"}
    data = load_site(make_site(tmp_path, **changes), "diagnosis")
    age, chol = np.array([40, 50, 50, 70.0]), np.array([200, 220, 220, 300.0])
    columns = np.array([age, chol, [0, 0, 1, 0], [0, 1, 0, 0], [1, 1, 0, 0]]).T  # sex=0 is left out
    expected = (columns - columns.mean(0)) / columns.std(0, ddof=1)
    assert data.train.inputs.numpy() == pytest.approx(expected, abs=1e-6)
    last = (np.array([60, 220, 0, 1, 1]) - columns.mean(0)) / columns.std(0, ddof=1)
    assert data.test.inputs[0].numpy() == pytest.approx(last, abs=1e-6)
    constant = load_site(
        make_site(tmp_path, [",".join([*row.split(",")[:4], "1", row[-1]]) for row in ROWS], **changes), "diagnosis"
    )
    assert constant.train.inputs[:, 4].tolist() == [0, 0, 0, 0]


def test_numbers_can_be_left_as_they_are(tmp_path: Path) -> None:
    path = make_site(tmp_path, standardise="none")
    data = load_site(path, "diagnosis")
    assert data.train.inputs[:, :2].tolist() == [[40, 200], [50, 220], [50, 220], [70, 300]]  # medians fill in
    new = tmp_path / "new.csv"
    new.write_text("id,age,chol,sex\nz,60,?,1\n")
    assert load_new_cases(path, "diagnosis", new).inputs[0, :2].tolist() == [60, 220]
    changes = {"standardise": "none", "numeric_missing": "error", "splits": {"validation": 0}}
    complete = make_site(tmp_path, plain_rows(), case=None, patient=None, **changes)
    with pytest.raises(ConfigError, match=r"site\.yaml has standardise: none"):
        load_dataset(load_site_config(complete), "diagnosis", with_moments=True)


def test_sums_for_pooling_are_of_all_standardised_inputs(tmp_path: Path) -> None:
    changes = {"missing_rows": "drop", "standardise": "all", "missing_indicators": False, "patient": None}
    config = load_site_config(make_site(tmp_path, plain_rows(), case=None, splits={"validation": 0}, **changes))
    own = load_dataset(config, "diagnosis", with_moments=True)
    rows = [plain_rows()[int(case.removeprefix("row-")) - 1].split(",") for case in own.train.case_ids]
    inputs = np.array([[int(row[2]), 200, row[4] == "0", row[4] == "1"] for row in rows], dtype=float)
    assert own.preprocessing.moments.total == pytest.approx(inputs.sum(0))
    pooled = load_dataset(
        config,
        "diagnosis",
        Preprocessing(
            {},
            TabularReader(config.dataset("diagnosis")).pooled(
                {"mean": [30.0, 200.0, 0.5, 0.5], "std": [2.0, 1.0, 0.25, 0.5]}
            ),
        ),
    )
    expected = (inputs - [30, 200, 0.5, 0.5]) / [2, 1, 0.25, 0.5]
    assert pooled.train.inputs.numpy() == pytest.approx(expected)


def test_keys_that_are_left_out_change_no_saved_layout(tmp_path: Path) -> None:
    load_site(make_site(tmp_path), "diagnosis")
    saved = json.loads((tmp_path / "state" / "diagnosis" / "preprocessing.json").read_text())
    assert sorted(saved["layout"]) == [
        "categorical",
        "format",
        "missing",
        "missing_indicators",
        "missing_values",
        "numeric",
    ]
