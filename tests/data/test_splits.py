"""Splits: by patient, stratified, seeded, kept; and the class-balanced local test of the FedKPer study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from consilia.core.errors import DataError
from consilia.data.cases import Cases
from consilia.data.problems import Problems
from consilia.data.specs import SplitSpec, TabularSpec
from consilia.data.splits import (
    UNUSED,
    class_balanced_splits,
    draw_splits,
    limit_training,
    patient_labels,
    site_splits,
)


def make_cases(patients: list[str], labels: list[int]) -> Cases:
    ids = tuple(f"c{i}" for i in range(len(patients)))
    return Cases(ids, tuple(patients), np.array(labels), pd.DataFrame(index=range(len(ids))))


def make_spec(**values: object) -> TabularSpec:
    base = {
        "format": "tabular",
        "file": "cases.csv",
        "classes": ["a", "b"],
        "label": {"column": "y"},
        "numeric": ["x"],
        "patient": "p",
    }
    return TabularSpec.model_validate({**base, **values})


def test_no_patient_is_in_two_splits_and_fractions_hold() -> None:
    rng = np.random.default_rng(0)
    owners = rng.integers(0, 200, size=600)
    cases = make_cases([f"p{i}" for i in owners], (owners % 2).tolist())
    splits = draw_splits(cases, SplitSpec())
    table = pd.DataFrame({"patient": cases.patients, "label": cases.labels, "split": splits})
    assert (table.groupby("patient")["split"].nunique() == 1).all()
    people = table.drop_duplicates("patient")
    share = people.groupby("split").size() / len(people)
    assert share.to_dict() == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.01)
    positive = people.groupby("split")["label"].mean()
    assert positive.to_numpy() == pytest.approx(np.full(3, people["label"].mean()), abs=0.05)


def test_rare_class_of_three_patients_reaches_train_and_test() -> None:
    cases = make_cases([f"p{i}" for i in range(30)], [1] * 3 + [0] * 27)
    splits = draw_splits(cases, SplitSpec(validation=0.0, test=0.34))
    assert sorted(splits[:3]) == ["test", "train", "train"]


@pytest.mark.parametrize("count", range(3, 12))
@pytest.mark.parametrize("seed", range(3))
def test_small_sites_have_no_empty_split(count: int, seed: int) -> None:
    cases = make_cases([f"p{i}" for i in range(count)], [i % 2 for i in range(count)])
    assert set(draw_splits(cases, SplitSpec(seed=seed))) == {"train", "validation", "test"}
    assert set(draw_splits(cases, SplitSpec(seed=seed, validation=0.0))) == {"train", "test"}


def test_seed_decides() -> None:
    cases = make_cases([f"p{i}" for i in range(50)], [0, 1] * 25)
    first, again, other = (draw_splits(cases, SplitSpec(seed=seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_majority_label() -> None:
    names, labels, member = patient_labels(["b", "a", "b", "b", "a"], np.array([1, 0, 1, 0, 1]))
    assert names.tolist() == ["a", "b"]
    assert labels.tolist() == [0, 1]  # a: one each, the smaller wins; b: two of three are 1
    assert member.tolist() == [1, 0, 1, 1, 0]


def test_class_balanced_budget_by_hand() -> None:
    # n = 100, b = 20, 3 classes present: 6 each; the class of 4 is too small and gives int(0.2 * 4) = 0.
    labels = np.array([0] * 60 + [1] * 36 + [4] * 4)
    splits = class_balanced_splits(labels, test=0.2, validation=0.1, seed=0)
    test = labels[splits == "test"]
    assert np.bincount(test, minlength=5).tolist() == [6, 6, 0, 0, 0]
    assert (splits == "validation").sum() == 10
    assert (splits == "train").sum() == 100 - 12 - 10


def test_class_balanced_small_class_gives_its_fifth() -> None:
    # b = 40, 2 classes: 20 each; the class of 15 gives int(0.2 * 15) = 3.
    labels = np.array([0] * 185 + [1] * 15)
    splits = class_balanced_splits(labels, test=0.2, validation=0.0, seed=0)
    assert np.bincount(labels[splits == "test"]).tolist() == [20, 3]
    assert not (splits == "validation").any()


def test_class_balanced_falls_back_to_a_random_fifth() -> None:
    # n = 10, b = 2, 5 classes: 2 // 5 = 0 each, so nothing comes out: a random int(0.2 * 10) = 2.
    splits = class_balanced_splits(np.repeat(np.arange(5), 2), test=0.2, validation=0.1, seed=0)
    assert {name: int((splits == name).sum()) for name in np.unique(splits)} == {"test": 2, "train": 7, "validation": 1}


def test_saved_splits_are_kept_byte_for_byte(tmp_path: Path) -> None:
    cases, problems = make_cases([f"p{i}" for i in range(20)], [0, 1] * 10), Problems()
    first = site_splits(cases, make_spec(), tmp_path, problems, save=True)
    content = (tmp_path / "splits.csv").read_bytes()
    assert content.startswith(b"case_id,patient,split\nc0,p0,")
    # Another seed does not matter once the splits are there.
    again = site_splits(cases, make_spec(splits={"seed": 9}), tmp_path, problems, save=True)
    assert (first == again).all()
    assert (tmp_path / "splits.csv").read_bytes() == content
    assert not problems


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    cases = make_cases(["a", "b", "c"], [0, 1, 0])
    site_splits(cases, make_spec(), tmp_path, Problems(), save=False)
    assert not list(tmp_path.iterdir())


def test_changed_data_are_refused_with_numbers(tmp_path: Path) -> None:
    cases = make_cases([f"p{i}" for i in range(20)], [0, 1] * 10)
    site_splits(cases, make_spec(), tmp_path, Problems(), save=True)
    fewer = cases.take(np.arange(2, 20))
    with pytest.raises(DataError, match=r"0 case\(s\) of the data are not in this file and 2 case\(s\) of the file"):
        site_splits(fewer, make_spec(), tmp_path, Problems(), save=True)
    # A withdrawn consent: the patients are named in site.yaml and all others stay where they were.
    spec = make_spec(exclude_patients=["p0", "p1"])
    kept = site_splits(fewer, spec, tmp_path, Problems(), save=True)
    assert (kept == site_splits(cases, make_spec(), tmp_path, Problems(), save=True)[2:]).all()


def test_a_case_of_another_patient_is_refused(tmp_path: Path) -> None:
    people = [f"{i}" for i in range(20)]
    cases = make_cases(people, [0, 1] * 10)
    first = site_splits(cases, make_spec(), tmp_path, Problems(), save=True)
    spelt = make_cases([f" {name}.0" for name in people], [0, 1] * 10)
    assert (site_splits(spelt, make_spec(), tmp_path, Problems(), save=True) == first).all()
    swapped = make_cases([people[1], people[0], "stranger", *people[3:]], [0, 1] * 10)
    with pytest.raises(DataError, match=r"3 of 20 case\(s\) belong to another patient") as caught:
        site_splits(swapped, make_spec(), tmp_path, Problems(), save=True)
    assert "stranger" not in str(caught.value)


def test_given_splits_with_patients_are_compared_where_the_site_has_patients(tmp_path: Path) -> None:
    cases, given = make_cases(["p", "q", "r"], [0, 0, 1]), tmp_path / "given.csv"
    given.write_text("case_id,patient,split\nc0,p,train\nc1,x,test\nc2,r,train\n")
    with pytest.raises(DataError, match=r"given.csv: 1 of 3 case\(s\) belong to another patient"):
        site_splits(cases, make_spec(splits={"file": str(given)}), tmp_path, Problems(), save=True)
    spec = make_spec(splits={"file": str(given)}, patient=None)
    assert site_splits(cases, spec, tmp_path, Problems(), save=True).tolist() == ["train", "test", "train"]


def test_hand_edited_splits_are_checked(tmp_path: Path) -> None:
    cases = make_cases(["p", "p", "q"], [0, 0, 1])
    given = tmp_path / "given.csv"
    given.write_text("case_id,split\nc0,train\nc1,test\nc2,tets\n")
    problems = Problems()
    site_splits(cases, make_spec(splits={"file": str(given)}), tmp_path, problems, save=True)
    assert any("row 3: split must be one of train, validation, test, got 'tets'" in m for m in problems.messages)
    assert any("patient 'p' is in test and train" in m for m in problems.messages)


def limited(cases: Cases, train_cases: float, seed: int = 0) -> np.ndarray:
    spec = make_spec(train_cases=train_cases, splits={"seed": seed})
    return limit_training(cases, draw_splits(cases, spec.splits), spec)


def test_low_data_takes_whole_patients_of_the_training_split_only() -> None:
    cases = make_cases([f"p{i // 3}" for i in range(300)], [0, 1] * 150)
    before, after = draw_splits(cases, SplitSpec()), limited(cases, 31)
    assert (after == "train").sum() == 31
    assert ((after == UNUSED) | (after == before)).all()
    assert (before[after == UNUSED] == "train").all()
    _, counts = np.unique(np.array(cases.patients)[after == "train"], return_counts=True)
    assert sorted(counts.tolist()) == [1] + [3] * 10  # ten whole patients, and one case to make 31


@pytest.mark.parametrize(("asked", "expected"), [(0.05, 10), (0.5, 105), (0.0001, 1), (210, 210), (2, 2)])
def test_low_data_counts(asked: float, expected: int) -> None:
    cases = make_cases([f"p{i}" for i in range(300)], [0, 1] * 150)  # 210 training cases; 10.5 rounds to the even
    assert (limited(cases, asked) == "train").sum() == expected


def test_low_data_from_one_large_patient() -> None:
    cases = make_cases(["a"] * 50 + ["b"] * 50 + ["c"] * 50, [0] * 150)
    after = limited(cases, 7)
    assert (after == "train").sum() == 7


def test_low_data_goes_by_seed_and_refuses_more_than_there_are() -> None:
    cases = make_cases([f"p{i}" for i in range(100)], [0, 1] * 50)
    spec = make_spec()
    splits = draw_splits(cases, spec.splits)
    first, again, other = (
        limit_training(cases, splits, make_spec(train_cases=9, splits={"seed": seed})) for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).any()
    with pytest.raises(DataError, match=r"at most the 70 case\(s\) of the training split, got 71"):
        limit_training(cases, splits, make_spec(train_cases=71))
    test_only = make_spec(train_cases=71, test_only=True)
    assert (limit_training(cases, splits, test_only) == splits).all()


@pytest.mark.parametrize("smallest", [3, 2])
def test_train_test_split_is_scikit_learns(smallest: int) -> None:
    labels = np.array([0] * 40 + [1] * smallest)
    cases = make_cases([f"p{i}" for i in range(len(labels))], labels.tolist())
    spec = SplitSpec(scheme="train_test_split", train=0.66, validation=0, test=0.34, seed=43)
    stratify = labels if smallest > 2 else None
    train, test = train_test_split(
        np.arange(len(labels)), train_size=0.66, test_size=0.34, random_state=43, stratify=stratify
    )
    splits = draw_splits(cases, spec)
    assert set(np.flatnonzero(splits == "train")) == set(train)
    assert set(np.flatnonzero(splits == "test")) == set(test)


def test_train_test_split_takes_validation_from_the_training_part() -> None:
    cases = make_cases([f"p{i}" for i in range(100)], [0, 1] * 50)
    whole = SplitSpec(scheme="train_test_split", validation=0, test=0.2)
    three = draw_splits(cases, SplitSpec(scheme="train_test_split", validation=0.2, test=0.2))
    assert ((three == "test") == (draw_splits(cases, whole) == "test")).all()
    assert {name: int((three == name).sum()) for name in ("train", "validation", "test")} == {
        "train": 60,
        "validation": 20,
        "test": 20,
    }
    assert all((cases.labels[three == name]).mean() == 0.5 for name in ("train", "validation", "test"))
    with pytest.raises(ValueError, match="train_test_split divides single cases: it needs patient: null"):
        make_spec(splits={"scheme": "train_test_split"})


def test_train_test_split_of_too_few_cases_says_so() -> None:
    with pytest.raises(DataError, match="train_test_split of 1 case"):
        draw_splits(make_cases(["p"], [0]), SplitSpec(scheme="train_test_split"))
