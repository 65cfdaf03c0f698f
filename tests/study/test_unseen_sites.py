"""Studies in which each site is left out in turn: metrics and ratios by hand, calibration, and what the tables say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from consilia.evaluation.paired import draw
from consilia.record.study_result import StudyResult
from consilia.report.study_page import study_page
from consilia.report.study_tables import study_tables
from consilia.study.analysis import analyse
from consilia.study.outputs import write_tables
from tests.study.made_study import NO_ROUNDS, classified, plan
from tests.study.small_study import carried_out, federation, of, study, table

SITES = {"a": 40, "b": 30, "tiny": 8}
WORDS = "values fitted on its own inputs, without labels"


def made() -> pd.DataFrame:
    """A model of its own tests each site."""
    rows = classified({"fed": 1.0, "centralised": 2.0}, sites=SITES, folds=1, seeds=[0], models=["global"])
    return rows.assign(fold=1000 * rows["site"].map({site: place for place, site in enumerate(SITES)}))


def result(draws: int = 200) -> StudyResult:
    rows = made()
    runs = plan(rows)
    names = dict(enumerate(SITES))
    left_out = [names[fold // 1000] for fold in runs["fold"]]
    runs = runs.assign(left_out=left_out, where=[f"without {site}" for site in left_out], prepared=WORDS)
    lost = {**runs.iloc[1].to_dict(), "method": "fedbn", "status": "cannot", "reason": "no norm layers"}
    return analyse(rows, pd.concat([runs, pd.DataFrame([lost])], ignore_index=True), NO_ROUNDS, [], draws=draws)


def drawn_ratios(rows: pd.DataFrame, site: str, metric: str, draws: int) -> np.ndarray:
    """Method by reference for each draw of a site's patients, one by one; the first is no draw."""
    people = rows[["stratum", "patient"]].drop_duplicates().sort_values(["stratum", "patient"])
    times = draw(people["stratum"].tolist(), 1, seed=0, purpose="heart/", draws=draws).patients
    found = []
    for counts in times:
        drawn = dict(zip(zip(people["stratum"], people["patient"], strict=True), counts, strict=True))
        values = {}
        for method, own in rows[rows["site"] == site].groupby("method"):
            weights = [drawn[key] for key in zip(own["stratum"], own["patient"], strict=True)]
            again = own.loc[own.index.repeat(weights)]
            if metric == "accuracy":
                values[method] = ((again["p1"] > 0.5) == (again["label"] == 1)).mean()
            else:
                values[method] = roc_auc_score(again["label"], again["p1"]) if again["label"].nunique() > 1 else np.nan
        found.append(values["fed"] / values["centralised"])
    return np.array(found)


@pytest.mark.parametrize("metric", ["auroc", "accuracy"])
def test_the_ratio_at_a_site_and_its_interval_are_those_of_a_plain_loop(metric: str) -> None:
    expected = drawn_ratios(made(), "b", metric, 200)
    (found,) = [one for one in result().ratios if (one.metric, one.site) == (metric, "b")]
    assert (found.method, found.reference) == ("fed", "centralised")
    assert found.value == pytest.approx(expected[0])
    assert [found.low, found.high] == pytest.approx(np.nanquantile(expected[1:], [0.025, 0.975]))


def test_the_ratio_over_sites_is_that_of_means_and_a_tiny_site_has_no_part_in_auroc() -> None:
    means: dict[str, list[float]] = {"auroc": [], "accuracy_sites": []}
    for _, own in made().groupby("method", sort=False):
        sites = dict(list(own.groupby("site")))
        means["auroc"].append(np.mean([roc_auc_score(sites[s]["label"], sites[s]["p1"]) for s in ("a", "b")]))
        means["accuracy_sites"].append(np.mean([((s["p1"] > 0.5) == (s["label"] == 1)).mean() for s in sites.values()]))
    found = {one.metric: one.value for one in result().ratios if not one.site}
    assert found == pytest.approx({name: fed / central for name, (fed, central) in means.items()})


def test_calibration_has_the_bins_of_scikit_learn() -> None:
    rows = made()
    own = rows[(rows["method"] == "fed") & (rows["site"] == "a")]
    observed, confidence = calibration_curve(own["label"], own["p1"], n_bins=10)
    (found,) = [one for one in result().calibration if (one.method, one.site) == ("fed", "a")]
    there = [one for one in found.bins if one.count]
    assert [one.observed for one in there] == pytest.approx(list(observed))
    assert [one.confidence for one in there] == pytest.approx(list(confidence))
    assert sum(one.count for one in found.bins) == 40


def test_a_row_per_site_and_method_with_support_and_preprocessing() -> None:
    tables = study_tables(result())
    shown = tables["left-out"]
    assert shown.columns == ["left out", "method", "AUROC", "AUPRC", "Accuracy", "Brier score", "ECE"]
    positives = made().query("method == 'fed'").groupby("site")["label"].sum()
    expected = [f"{s}{'*' * (s == 'tiny')} ({n} patients, {positives[s]} positive)" for s, n in SITES.items()]
    assert [row[0] for row in shown.rows] == [name for name in [*expected, "mean of the sites"] for _ in range(3)]
    assert [row[1] for row in shown.rows[:3]] == ["fed", "centralised", "fedbn"]
    assert shown.rows[2][2:] == ["–"] * 5
    assert all("[" in cell for row in (shown.rows[0], shown.rows[-3]) for cell in row[2:])
    brier = [np.mean((own["p1"] - own["label"]) ** 2) for _, own in made().query("method == 'fed'").groupby("site")]
    assert shown.rows[-3][5].startswith(f"{np.mean(brier):.3f} [")
    assert f"prepared with {WORDS}." in shown.caption
    assert tables["ratios"].columns == ["method", "metric", "means of the sites", "a", "b", "tiny*"]
    assert [row[:2] for row in tables["ratios"].rows] == [["fed", "AUROC"], ["fed", "Accuracy"]]
    assert "3 sites left out in turn, 1 seed" in tables["means-last"].caption
    assert [row[3] for row in tables["runs"].rows] == ["without b"]


def test_the_page_has_a_reliability_plot_and_the_csv_a_row_per_ratio(tmp_path: Path) -> None:
    assert 'data-name="heart-reliability-of-the-probabilities"' in study_page(result(20))
    write_tables(result(20), tmp_path)
    assert len(pd.read_csv(tmp_path / "ratios.csv")) == 2 * (3 + 1)


def test_runs_that_leave_out_each_site_say_so(tmp_path: Path) -> None:
    tables = {site: table(site, 40, seed) for seed, site in enumerate("abc")}
    data = federation(tmp_path / "data", tables)
    planned = carried_out(study(data, leave_out=("a", "c"), baselines=("majority",)), tmp_path / "study")
    assert of(planned, "fedavg").folder == tmp_path / "study" / "without-a" / "fedavg-seed0"
    runs = pd.read_csv(tmp_path / "study" / "runs.csv")
    assert runs["left_out"].tolist() == ["a", "a", "c", "c"]
    assert runs["where"].tolist() == ["without a"] * 2 + ["without c"] * 2
    assert set(runs["prepared"]) == {WORDS}
    scores = pd.read_csv(tmp_path / "study" / "results.csv")
    assert set(scores["site"].dropna()) == {"a", "c"}
