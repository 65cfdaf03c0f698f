"""Planted leaks between training and test cases: a study refuses them, or counts and says them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from consilia.cli.study_result import show_study_result
from consilia.core.errors import DataError
from consilia.data import loading
from consilia.data.loading import load_site
from consilia.record.study_result import load_result
from consilia.study import folds, leaks
from consilia.study.federations import federations_of
from consilia.study.leaks import leaks_of
from consilia.study.outputs import PAGE, TABLES
from consilia.study.plan import plan_of
from consilia.study.running import run_study, tune_study
from consilia.study.study import Study
from tests.study.small_study import FAST, federation, study, table

MLP = {"class": "consilia.models.mlp.MLP", "args": {"in_features": 2, "num_classes": 2}}
WITH_MODEL = {**FAST, "model": MLP}
ONE = {**FAST, "model": {**MLP, "args": {"in_features": 1, "num_classes": 2}}}


def found_in(one: Study, folder: Path) -> dict[str, tuple[int, int]]:
    """How many of how many, by kind."""
    return {leak.kind: (leak.found, leak.of) for leak in leaks_of(plan_of(federations_of(one, folder), None))}


def patients(site: str, cases: int) -> pd.DataFrame:
    """Two cases a patient."""
    return table(site, cases).assign(person=[f"{site}-person{n // 2}" for n in range(cases)])


def write_splits(rows: pd.DataFrame, file: Path, splits: dict[int, str]) -> None:
    """All cases train but these, by position."""
    found = pd.DataFrame({"case_id": rows["id"], "patient": rows["person"], "split": "train"})
    for place, split in splits.items():
        found.loc[place, "split"] = split
    found.to_csv(file, index=False)


def test_sound_data_have_no_leak(tmp_path: Path) -> None:
    tables = {"a": patients("a", 60), "b": patients("b", 48)}
    data = federation(tmp_path, tables, patient="person")
    none = {"own site": (0, 108), "another site": (0, 108), "fitted on test": (0, 108), "several sites": (0, 54)}
    assert found_in(study(data, folds=2, run=WITH_MODEL), tmp_path / "study") == none


def test_a_patient_in_two_splits_of_a_site_refuses_the_study_and_is_not_named(tmp_path: Path) -> None:
    tables = {"a": patients("a", 60), "b": patients("b", 48)}
    write_splits(tables["a"], tmp_path / "a.splits", {0: "test", 1: "test", 4: "validation", 5: "validation"})
    # Patients 0 and 3 of b have a case in test and one in training.
    write_splits(tables["b"], tmp_path / "b.splits", {0: "test", 2: "test", 3: "test", 6: "test"})
    data = federation(tmp_path, tables, patient="person")
    text = Path(data).read_text()
    text = text.replace("file: a.csv", "file: a.csv\n    splits: {file: a.splits}")
    Path(data).write_text(text.replace("file: b.csv", "file: b.csv\n    splits: {file: b.splits}"))
    with pytest.raises(DataError, match=r"site b, dataset d: 2 patient\(s\) have cases in more than one") as refused:
        run_study(study(data, run=WITH_MODEL), tmp_path / "study")
    assert "person" not in str(refused.value)
    assert not (tmp_path / "study").exists()


def test_a_patient_tested_in_two_folds_refuses_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = folds.fold_splits

    def leaking(labels: Any, count: int, seed: int) -> Any:
        for split in sound(labels, count, seed):
            split[:3] = "test"
            yield split

    monkeypatch.setattr(folds, "fold_splits", leaking)
    data = federation(tmp_path, {"a": patients("a", 60)}, patient="person")
    with pytest.raises(DataError, match=r"site a, dataset d: 3 patient\(s\) are in the test cases of more than one"):
        run_study(study(data, folds=3, run=WITH_MODEL), tmp_path / "study")


@pytest.mark.parametrize("begin", [run_study, tune_study])
def test_test_cases_in_another_sites_training_refuse_the_study(tmp_path: Path, begin: Any) -> None:
    data = federation(tmp_path, {"a": patients("a", 60), "b": patients("b", 40)}, patient="person")
    # Site b has a's file, too, and divides it by another seed.
    text = Path(data).read_text().replace("file: b.csv", "file: a.csv\n    splits: {seed: 1}")
    Path(data).write_text(text)
    with pytest.raises(
        DataError, match=r"a\.csv are in the test cases of site a and in training or validation at site"
    ):
        begin(study(data, run=WITH_MODEL), tmp_path / "study")


def test_patients_of_two_hospitals_files_may_have_one_name(tmp_path: Path) -> None:
    tables = {"a": patients("a", 60), "b": patients("b", 60)}
    tables["b"]["person"] = tables["a"]["person"]
    tables["b"]["x0"] += 1
    data = federation(tmp_path, tables, patient="person")
    assert found_in(study(data, run=WITH_MODEL), tmp_path / "study")["several sites"] == (0, 60)


def test_a_copy_of_a_sites_file_is_said_case_by_case(tmp_path: Path) -> None:
    data = federation(tmp_path, {"a": table("a", 60), "copy": table("a", 60)}, splits={"validation": 0.1, "test": 0.2})
    Path(data).write_text(Path(data).read_text().replace("file: copy.csv", "file: copy.csv\n    splits: {seed: 1}"))
    one = study(data, run=WITH_MODEL)
    paths = federations_of(one, tmp_path / "study")[0].sites
    own = {site: load_site(path, "d") for site, path in paths.items()}
    trained = {site: {*data.train.case_ids, *data.validation.case_ids} for site, data in own.items()}
    expected = len(set(own["a"].test.case_ids) & trained["copy"]) + len(set(own["copy"].test.case_ids) & trained["a"])
    assert expected > 10
    assert found_in(one, tmp_path / "study")["another site"] == (expected, 24)


def images(seed: int) -> dict[str, np.ndarray]:
    """A site's images in their three parts, before they are written."""
    draw = np.random.default_rng(seed)
    sizes = {"train": 24, "val": 8, "test": 10}
    found: dict[str, np.ndarray] = {f"{part}_labels": np.arange(n)[:, None] % 2 for part, n in sizes.items()}
    return found | {f"{part}_images": draw.integers(0, 256, (n, 16, 16), dtype=np.uint8) for part, n in sizes.items()}


def test_duplicated_images_are_counted_in_every_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites = {site: images(seed) for seed, site in enumerate(("north", "south"))}
    sites["north"]["test_images"][0] = sites["north"]["train_images"][5]
    sites["north"]["test_images"][1] = sites["north"]["val_images"][2]
    sites["south"]["test_images"][3] = sites["north"]["train_images"][7]
    for site, arrays in sites.items():
        np.savez(tmp_path / f"{site}.npz", **arrays)
    (tmp_path / "data.yaml").write_text(
        "dataset: d\n"
        "common: {format: medmnist, classes: ['no', 'yes'], official_splits: true}\n"
        "sites: {north: {file: north.npz}, south: {file: south.npz}}\n"
    )
    run_study(study(str(tmp_path / "data.yaml"), baselines=("majority",), methods={}), tmp_path / "study")
    result = load_result(tmp_path / "study" / "study.json")
    counts = {leak.kind: (leak.found, leak.of) for leak in result.leaks}
    assert counts == {
        "own site": (2, 20),
        "another site": (1, 20),
        "fitted on test": (0, 20),
        "several sites": (0, 84),
    }
    text = (tmp_path / "study" / TABLES).read_text()
    assert "| data | test cases that equal a training or validation case of their own site | 2 | 20 |" in text
    assert "Leaks between training and test" in (tmp_path / "study" / PAGE).read_text()
    show_study_result(result, tmp_path / "study")
    assert "Leaks looked for" in capsys.readouterr().out


def test_preprocessing_fitted_on_test_cases_refuses_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_all(reader: Any, raw: Any, splits: Any, spec: Any) -> Any:
        return reader.fit(raw)

    for module in (loading, leaks):
        monkeypatch.setattr(module, "fitted_values", on_all)
    with pytest.raises(DataError, match="site a, dataset d: the values that preprocessing is fitted to depend on"):
        run_study(study(federation(tmp_path), run=WITH_MODEL), tmp_path / "study")


def test_fitted_values_do_not_depend_on_test_cases(tmp_path: Path) -> None:
    def fitted(folder: Path, rows: pd.DataFrame) -> Any:
        one = study(federation(folder, {"a": rows}), run=WITH_MODEL)
        own = load_site(federations_of(one, folder / "study")[0].sites["a"], "d")
        assert own.dataset().preprocessing is not None
        return own.test.case_ids, own.dataset().preprocessing.fitted

    rows = table("a", 60)
    tested, before = fitted(tmp_path / "before", rows)
    rows.loc[rows["id"].isin(tested), ["x0", "x1"]] = 1000.0
    assert fitted(tmp_path / "after", rows) == (tested, before)
    rows.loc[~rows["id"].isin(tested), "x0"] *= 2
    assert fitted(tmp_path / "trained", rows)[1] != before


def test_a_test_only_site_with_values_of_its_own_is_said(tmp_path: Path) -> None:
    data = federation(tmp_path, {"a": table("a", 60), "b": table("b", 48)}, numeric_missing="error")
    left_out = study(data, run=WITH_MODEL, leave_out="b")
    # A fifth of a's cases, and all of b's.
    assert found_in(left_out, tmp_path / "own")["fitted on test"] == (48, 12 + 48)
    pooled = left_out.changed(run={**WITH_MODEL, "preprocessing": "pooled"})
    assert found_in(pooled, tmp_path / "pooled")["fitted on test"] == (0, 60)
    # In turn each site is tested as the one that is left out, and there alone.
    assert found_in(left_out.changed(leave_out="all"), tmp_path / "turn")["fitted on test"] == (108, 108)


def test_a_partition_of_a_pool_is_not_several_sites(tmp_path: Path) -> None:
    rows = table("a", 120)
    rows.to_csv(tmp_path / "pool.csv", index=False)
    (tmp_path / "data.yaml").write_text(
        "dataset: d\n"
        "pooled: {format: tabular, file: pool.csv, case: id, numeric: [x0],\n"
        "         classes: ['no', 'yes'], label: {column: y}}\n"
        "partition: {by: dirichlet, sites: 2, alpha: 1, min_cases: 20}\n"
    )
    found = found_in(study(str(tmp_path / "data.yaml"), partitions=(0, 1), run=ONE), tmp_path / "study")
    assert found["several sites"] == (0, 120)


def test_a_site_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    rows = table("b", 48).astype({"x0": object})
    rows.loc[3, "x0"] = "high"
    data = federation(tmp_path, {"a": table("a", 60), "b": rows})
    assert found_in(study(data, run=WITH_MODEL), tmp_path / "study")["own site"] == (0, 12)


def test_a_survival_is_looked_at_like_others(tmp_path: Path) -> None:
    found = found_in(Study(data="synthetic-survival", methods={"fedavg": {"method": "fedavg"}}, baselines=()), tmp_path)
    assert found["own site"][0] == found["another site"][0] == 0
    assert found["own site"][1] > 100


def test_embedded_data_that_every_left_out_site_has_a_copy_of_count_once(tmp_path: Path) -> None:
    one = Study(data="wisconsin", leave_out="all", methods={"fedavg": {"method": "fedavg"}}, baselines=())
    # 569 cases, each tested by the model that has not seen its hospital.
    expected = {"own site": (0, 569), "another site": (0, 569), "fitted on test": (569, 569), "several sites": (0, 569)}
    assert found_in(one, tmp_path / "study") == expected
