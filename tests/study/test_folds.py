"""Folds of a study: by patient, disjoint, complete, alike in labels, and the same at every call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from consilia.core.errors import ConfigError, DataError
from consilia.data.loading import load_site
from consilia.study.federations import Federation, federations_of
from consilia.study.folds import fold_splits
from consilia.study.study import Study


def test_every_patient_is_tested_once_and_folds_are_alike_in_labels() -> None:
    labels = np.array([0] * 60 + [1] * 30)
    splits = np.stack(list(fold_splits(labels, 3, seed=7)))
    assert ((splits == "test").sum(axis=0) == 1).all()
    for split in splits:
        assert [(split[labels == label] == "test").sum() for label in (0, 1)] == [20, 10]
        # 0.15 of the other 60 patients, two thirds of them of class 0.
        assert [(split[labels == label] == "validation").sum() for label in (0, 1)] == [6, 3]
    assert (splits == np.stack(list(fold_splits(labels, 3, seed=7)))).all()
    assert (splits != np.stack(list(fold_splits(labels, 3, seed=8)))).any()


@pytest.mark.parametrize("labels", [[0] * 6, [0, 0, 0, 0, 0, 1], [0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1, 1]])
def test_rare_classes_are_divided_all_the_same(labels: list[int]) -> None:
    splits = np.stack(list(fold_splits(np.array(labels), 3, seed=0)))
    assert ((splits == "test").sum(axis=0) == 1).all()
    assert all({"train", "validation", "test"} == set(split) for split in splits)


def study_of_folds(folder: Path, *, patients: int, per_patient: int = 2) -> Study:
    """Two hospitals with a table each, several rows a patient."""
    text = ["patient,age,ill"]
    text += [f"p{n},{20 + n + m / 10},{n % 2}" for n in range(patients) for m in range(per_patient)]
    (folder / "cases.csv").write_text("\n".join(text) + "\n")
    (folder / "data.yaml").write_text(
        "dataset: diagnosis\n"
        "common: {format: tabular, file: cases.csv, patient: patient, numeric: [age], classes: [well, ill],\n"
        '         label: {column: ill, mapping: {"0": well, "1": ill}}}\n'
        "sites: {one: {}, two: {}}\n"
    )
    return Study(data=str(folder / "data.yaml"), folds=3)


def patients_tested(federation: Federation) -> dict[str, set[str]]:
    """The test patients of each site."""
    return {
        name: set(load_site(path, "diagnosis").dataset("diagnosis").test.patients)
        for name, path in federation.sites.items()
    }


def test_a_patients_cases_are_in_one_split_of_every_fold(tmp_path: Path) -> None:
    study = study_of_folds(tmp_path, patients=12)
    folds = federations_of(study, tmp_path / "study")
    assert [one.name for one in folds] == ["fold 0", "fold 1", "fold 2"]
    found = [patients_tested(one) for one in folds]
    for site in ("one", "two"):
        assert sorted(patient for fold in found for patient in fold[site]) == sorted(f"p{n}" for n in range(12))
    table = pd.read_csv(tmp_path / "study" / "fold-1" / "sites" / "one" / "diagnosis-splits.csv")
    assert table.groupby("patient")["split"].nunique().max() == 1
    # Another site has another draw: its folds do not follow from this one's.
    assert found[0]["one"] != found[0]["two"] or found[1]["one"] != found[1]["two"]


def test_too_few_patients_for_so_many_folds_are_refused_by_site(tmp_path: Path) -> None:
    federation = federations_of(study_of_folds(tmp_path, patients=5), tmp_path / "study")[0]
    with pytest.raises(DataError, match=r"site one, dataset diagnosis: 5 patient\(s\) are too few for 3 folds"):
        _ = federation.sites


def test_folds_and_partitions_exclude_each_other_and_partitions_need_a_pool(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give folds or partitions"):
        study_of_folds(tmp_path, patients=12).changed(partitions=(0,))
    study = study_of_folds(tmp_path, patients=12).changed(folds=None, partitions=(0, 1))
    with pytest.raises(ConfigError, match="expected a pooled dataset that is partitioned by dirichlet"):
        _ = federations_of(study, tmp_path / "study")[0].sites


def test_every_axis_of_a_study_is_a_level_of_folders(tmp_path: Path) -> None:
    study = Study(
        data={"a": "wisconsin", "b": "wisconsin"},
        options={"few": {"train_cases": 20}, "all": {"rounds": 3}},
        leave_out=("hospital-1", "hospital-2"),
        folds=2,
    )
    found = federations_of(study, tmp_path)
    assert len(found) == 16
    assert found[0].folder == tmp_path / "a" / "few" / "without-hospital-1" / "fold-0"
    assert found[0].axes == {"data": "a", "option": "few", "left_out": "hospital-1", "fold": 0}
    assert (found[0].study.train_cases, found[4].study.run) == (20, {"rounds": 3})
    assert len({one.folder for one in found}) == 16
