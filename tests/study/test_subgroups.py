"""Subgroups of patients: who is in which, their metrics by other means, gaps within hospitals, and what is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from consilia.core.errors import ConfigError
from consilia.record.study_result import Gap, StudyResult, load_result
from consilia.report.study_tables import study_tables
from consilia.study.analysis import analyse
from consilia.study.outputs import GAPS, PAGE, TABLES
from consilia.study.running import run_study
from consilia.study.study import Study
from consilia.study.subgroups import Division, with_subgroups
from tests.study.made_study import NO_ROUNDS, classified, plan
from tests.study.small_study import federation, study, table


def grouped(values: list[str | None], division: Division) -> list[str]:
    """The subgroups of cases with these values in the column ``age``."""
    places = {"data": "heart", "site": "a", "case": [str(n) for n in range(len(values))]}
    predictions = pd.DataFrame(places)
    found = with_subgroups(predictions, pd.DataFrame({**places, "age": values}), {"age": division})
    return list(found["group:age"])


def test_a_column_is_divided_by_cut_points_by_names_by_its_values_or_by_its_median() -> None:
    ages: list[str | None] = ["40", "49.9", "50", "64", "65", None, "old"]
    middle = "50 to below 65"
    assert grouped(ages, (50, 65)) == ["below 50", "below 50", middle, middle, "65 or more", "unknown", "unknown"]
    assert grouped(["0", "1", None, "2"], {"0": "women", "1": "men"}) == ["women", "men", "unknown", "2"]
    assert grouped(["0", "1", "1"], None) == ["0", "1", "1"]
    # The median of 1 to 8 is 4.5.
    assert grouped([str(n) for n in range(1, 9)], None) == ["below 4.5"] * 4 + ["4.5 or more"] * 4


def test_the_median_is_of_cases_that_are_tested_and_counts_each_once() -> None:
    cases = [str(n) for n in range(8)]
    attributes = pd.DataFrame({"data": "heart", "site": "a", "case": cases, "age": [str(n) for n in range(1, 9)]})
    # The oldest case is in no test; the first one has been judged by three models.
    tested = pd.DataFrame({"data": "heart", "site": "a", "case": ["0", "0", *cases[:7]]})
    assert set(with_subgroups(tested, attributes, {})["group:age"]) == {"below 4", "4 or more"}


def test_data_without_the_column_have_no_subgroups() -> None:
    attributes = pd.DataFrame({"data": ["x", "y"], "site": "a", "case": "0", "sex": ["f", None]})
    found = with_subgroups(pd.DataFrame({"data": ["x", "y"], "site": "a", "case": "0"}), attributes, {})
    assert found["group:sex"].fillna("none").tolist() == ["f", "none"]


def of_two_sexes(women: dict[str, int]) -> pd.DataFrame:
    """A model that knows men better, at hospitals with so many women of 80 patients each."""
    rows = classified({"m": 1.5}, sites=dict.fromkeys(women, 80), folds=2, seeds=[0, 1], models=["global"])
    number = rows["patient"].str[1:].astype(int)
    rows["group:sex"] = np.where(number < rows["site"].map(women), "women", "men")
    noise = np.random.default_rng(5).random(len(rows))
    rows["p1"] = np.where(rows["group:sex"] == "women", 0.5 * rows["p1"] + 0.5 * noise, rows["p1"])
    return rows.assign(p0=1 - rows["p1"])


def right(rows: pd.DataFrame) -> float:
    return float(((rows["p1"] > 0.5) == rows["label"]).mean())


def pairs_of_a_run(rows: pd.DataFrame) -> float:
    """AUROC of the pairs within a fold, mean over seeds; by scikit-learn's areas times their numbers of pairs."""
    found = []
    for _, seed in rows.groupby("seed"):
        areas = [roc_auc_score(fold["label"], fold["p1"]) for _, fold in seed.groupby("fold")]
        sizes = [fold["label"].sum() * (1 - fold["label"]).sum() for _, fold in seed.groupby("fold")]
        found.append(np.average(areas, weights=sizes))
    return float(np.mean(found))


@pytest.fixture(scope="module")
def two_sexes() -> tuple[pd.DataFrame, StudyResult]:
    """Hospital c has 10 women: too few for a mean over sites."""
    rows = of_two_sexes({"a": 40, "b": 50, "c": 10})
    return rows, analyse(rows, plan(rows), NO_ROUNDS, [], draws=300)


def test_metrics_of_a_subgroup(two_sexes: tuple[pd.DataFrame, StudyResult]) -> None:
    rows, result = two_sexes
    women = rows[rows["group:sex"] == "women"]
    scores = {one.metric: one for one in result.scores if one.subgroup == "sex: women"}
    assert scores["accuracy"].value == pytest.approx(right(women))
    sites = [pairs_of_a_run(women[women["site"] == site]) for site in ("a", "b")]
    assert scores["auroc"].value == pytest.approx(np.mean(sites))
    assert scores["auroc"].units == 100
    once = women.drop_duplicates(["site", "patient"])
    (support,) = (one for one in result.subgroups if one.group == "women")
    positive = int(once["label"].sum())
    assert (support.patients, support.cases, support.of_each) == (100, 100, (100 - positive, positive))


def test_a_gap_is_the_mean_difference_within_hospitals(two_sexes: tuple[pd.DataFrame, StudyResult]) -> None:
    rows, result = two_sexes
    gaps: dict[str, Gap] = {one.metric: one for one in result.gaps}
    by_group = {(site, group): own for (site, group), own in rows.groupby(["site", "group:sex"]) if site in ("a", "b")}
    for metric, value_of in (("accuracy", right), ("auroc", pairs_of_a_run)):
        gap = gaps[metric]
        expected = np.mean([value_of(by_group[s, "men"]) - value_of(by_group[s, "women"]) for s in ("a", "b")])
        assert (gap.better, gap.worse, gap.sites) == ("men", "women", 2)
        assert gap.value == pytest.approx(expected)
        assert gap.low is not None
        assert gap.high is not None
        assert gap.se is not None
        assert gap.low < gap.value < gap.high
        # The standard error of a difference of proportions, of patients whose answers to two seeds go together.
        if metric == "accuracy":
            parts = [right(own) * (1 - right(own)) / own["patient"].nunique() for own in by_group.values()]
            assert 0.6 * np.sqrt(sum(parts)) / 2 < gap.se < 1.2 * np.sqrt(sum(parts)) / 2


def test_of_several_groups_the_pair_furthest_apart_and_of_few_patients_none() -> None:
    rows = classified({"m": 1.0}, sites={"a": 90}, folds=1, seeds=[0], models=["global"])
    number = rows["patient"].str[1:].astype(int)
    rows["group:age"] = np.select(
        [number < 30, number < 60, number < 75], ["below 50", "50 to below 65", "unknown"], "65 or more"
    )
    rows["p1"] = np.select([number < 30, number < 60], [rows["label"], 0.9], 1 - rows["label"])
    result = analyse(rows.assign(p0=1 - rows["p1"]), plan(rows), NO_ROUNDS, [], draws=50)
    gap = next(one for one in result.gaps if one.metric == "accuracy")
    # All right of the youngest; of the 15 oldest none, but these are too few.
    share = rows[(number >= 30) & (number < 60)]["label"].mean()
    assert (gap.better, gap.worse) == ("below 50", "50 to below 65")
    assert gap.value == pytest.approx(1 - share)
    shown = study_tables(result)["subgroups-age"]
    assert [column.split(" (")[0] for column in shown.columns[3:]] == [
        "below 50",
        "50 to below 65",
        "65 or more*",
        "unknown*",
    ]
    assert any("0.0 %" in cell for cell in shown.rows[1])


def test_values_with_a_dash_are_ordered_by_their_number() -> None:
    rows = classified({"m": 1.0}, sites={"a": 90}, folds=1, seeds=[0], models=["global"])
    place = rows["patient"].str[1:].astype(int) % 3
    rows["group:stage"] = place.map({0: "stage-1", 1: "stage-2", 2: "stage-10"})
    result = analyse(rows, plan(rows), NO_ROUNDS, [], draws=10)
    assert [one.group for one in result.subgroups] == ["stage-1", "stage-2", "stage-10"]


def test_a_study_shows_sex_and_age_and_no_case(tmp_path: Path) -> None:
    tables = {"a": table("a", 90), "b": table("b", 90, seed=1)}
    tables["b"].loc[0, "sex"] = "?"
    run_study(study(federation(tmp_path, tables), folds=2), tmp_path / "study")
    result = load_result(tmp_path / "study" / "study.json")
    both = pd.concat(tables.values())
    counts = {one.name: one.patients for one in result.subgroups}
    # One patient's sex is unknown: a group of one would say what became of him.
    median = both["age"].median()
    assert counts == {
        "sex: f": (both["sex"] == "f").sum(),
        "sex: m": (both["sex"] == "m").sum(),
        f"age: below {median:g}": (both["age"] < median).sum(),
        f"age: {median:g} or more": (both["age"] >= median).sum(),
    }
    assert not any(one.subgroup == "sex: unknown" for one in result.scores)
    text = (tmp_path / "study" / TABLES).read_text()
    assert "gaps between subgroups" in text
    assert "subgroups by sex" in (tmp_path / "study" / PAGE).read_text()
    assert (tmp_path / "study" / GAPS).read_text().count("\n") == 1 + 2 * 2 * 2
    # Predictions hold digests, and no sex or age.
    for file in (tmp_path / "study").rglob("predictions-*.csv"):
        assert not {"sex", "age"} & set(pd.read_csv(file).columns)


def test_named_columns_and_cut_points_come_from_the_study_file(tmp_path: Path) -> None:
    data = federation(tmp_path)
    one = study(data, subgroups={"age": [50, 65], "sex": {"f": "women", "m": "men"}})
    run_study(one, tmp_path / "study")
    found = {result.name for result in load_result(tmp_path / "study" / "study.json").subgroups}
    assert found == {"age: below 50", "age: 50 to below 65", "age: 65 or more", "sex: women", "sex: men"}
    with pytest.raises(ConfigError, match="no site's table has a column 'Sex'"):
        run_study(study(data, subgroups={"Sex": None}), tmp_path / "other")
    run_study(study(data, subgroups={}), tmp_path / "none")
    assert load_result(tmp_path / "none" / "study.json").subgroups == ()


@pytest.mark.parametrize("cuts", [[], [65, 50], [50, 50]])
def test_cut_points_ascend(cuts: list[float]) -> None:
    with pytest.raises(ValueError, match="cut points in ascending order"):
        Study(subgroups={"age": cuts})
