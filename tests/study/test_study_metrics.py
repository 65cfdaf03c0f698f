"""The point estimates and intervals of a study, by scikit-learn, by hand, and by a plain loop over draws."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, brier_score_loss, roc_auc_score

from consilia.core.errors import DataError
from consilia.study.analysis import analyse
from consilia.study.cells import CellData, cells_of
from tests.study.made_study import NO_ROUNDS, classified, plan


def only_cell(predictions: pd.DataFrame, draws: int = 40) -> CellData:
    (cell,) = cells_of(predictions, seed=3, draws=draws)
    return cell


def test_one_fold_and_seed_are_scikit_learns() -> None:
    rows = classified({"m": 1.0}, sites={"a": 60}, folds=1, seeds=[0], models=["global"])
    found = only_cell(rows).values("m", "last", "global")
    truth, p1 = rows["label"], rows["p1"]
    expected = {
        "auroc": roc_auc_score(truth, p1),
        "auroc_pooled": roc_auc_score(truth, p1),
        "auprc": average_precision_score(truth, p1),
        "accuracy": np.mean((p1 > 0.5) == truth),
        "balanced_accuracy": balanced_accuracy_score(truth, p1 > 0.5),
        "sensitivity": np.mean(p1[truth == 1] > 0.5),
        "specificity": np.mean(p1[truth == 0] <= 0.5),
        "brier": brier_score_loss(truth, p1),
    }
    assert {name: found[name, ""][0] for name in expected} == pytest.approx(expected)


def test_scores_of_unlike_folds_do_not_compare() -> None:
    """Fold 0: one positive above two negatives, 2 of 2 pairs; fold 1, whose scores are all lower: 1 of 2 pairs."""
    rows = pd.DataFrame({"fold": [0, 0, 0, 1, 1, 1], "label": [1, 0, 0, 1, 1, 0], "p1": [0.9, 0.8, 0.7, 0.1, 0.3, 0.2]})
    rows = rows.assign(p0=1 - rows["p1"], data="d", option="", method="m", seed=0, version="last", model="global")
    rows = rows.assign(site="a", stratum="a", patient=[str(n) for n in range(6)], case=[str(n) for n in range(6)])
    found = only_cell(rows).values("m", "last", "global")
    assert found["auroc", "a"][0] == pytest.approx(3 / 4)
    assert found["auroc_pooled", ""][0] == pytest.approx(3 / 4)
    # Pooling the folds would give 4 of 9 pairs.
    assert roc_auc_score(rows["label"], rows["p1"]) == pytest.approx(4 / 9)
    assert ("auroc", "") not in found  # the site has too few patients for a mean


def test_auprc_is_weighted_by_the_positives_of_folds() -> None:
    rows = classified({"m": 1.0}, sites={"a": 70}, folds=3, seeds=[0], models=["global"])
    folds = [(own["label"].sum(), average_precision_score(own["label"], own["p1"])) for _, own in rows.groupby("fold")]
    expected = sum(count * value for count, value in folds) / sum(count for count, _ in folds)
    assert only_cell(rows).values("m", "last", "global")["auprc", ""][0] == pytest.approx(expected)


def test_means_over_sites_leave_out_the_small_one() -> None:
    rows = classified({"m": 1.0}, sites={"a": 60, "b": 30, "tiny": 6}, folds=1, seeds=[0], models=["global"])
    cell = only_cell(rows)
    assert [site.averaged for site in cell.cell.sites] == [True, True, False]
    found = cell.values("m", "last", "global")
    by_site = {site: roc_auc_score(own["label"], own["p1"]) for site, own in rows.groupby("site")}
    assert {site: found["auroc", site][0] for site in by_site} == pytest.approx(by_site)
    assert found["auroc", ""][0] == pytest.approx((by_site["a"] + by_site["b"]) / 2)
    assert found["auroc_weighted", ""][0] == pytest.approx((60 * by_site["a"] + 30 * by_site["b"]) / 90)
    assert found["accuracy", ""][0] == pytest.approx(np.mean((rows["p1"] > 0.5) == rows["label"]))
    accuracies = [np.mean((own["p1"] > 0.5) == own["label"]) for _, own in rows.groupby("site")]
    assert found["accuracy_sites", ""][0] == pytest.approx(np.mean(accuracies))


def test_support_counts_a_case_once_however_many_seeds_and_methods() -> None:
    rows = classified({"m": 1.0, "n": 2.0}, sites={"a": 30}, cases=2)
    (site,) = only_cell(rows).cell.sites
    once = rows.drop_duplicates("case")
    assert (site.patients, site.cases) == (30, 60)
    assert site.of_each == (int((once["label"] == 0).sum()), int((once["label"] == 1).sum()))


def test_patients_of_a_pool_are_one_over_all_partitions() -> None:
    """The same 40 patients are tested in two partitions, at other sites: they are drawn once, and counted once."""
    once = classified({"m": 1.0}, sites={"pool": 40}, folds=1, seeds=[0], models=["global"]).assign(stratum="")
    halves = np.where(np.arange(40) < 20, "a", "b")
    rows = pd.concat([once.assign(site=halves), once.assign(site=halves[::-1], fold=1)], ignore_index=True)
    cell = only_cell(rows)
    assert (cell.cell.patients, cell.cell.cases, sum(cell.cell.of_each)) == (40, 40, 40)
    assert [(site.patients, site.cases) for site in cell.cell.sites] == [(40, 40), (40, 40)]
    assert cell.draws.patients.shape[1] == 40


def test_draws_are_those_of_a_plain_loop() -> None:
    """Repeat the cases of every drawn patient and the runs of every drawn seed, and ask scikit-learn."""
    rows = classified({"m": 1.0}, sites={"a": 40, "b": 25}, folds=1, models=["global"], cases=2)
    cell = only_cell(rows, draws=5)
    found = cell.values("m", "last", "global")
    cases = dict(iter(cell.frame.groupby(["unit", "seed"])))
    for row in range(6):
        by_seed = {"auroc": [], "accuracy": [], "brier": []}
        for place, seed in enumerate(cell.cell.seeds):
            drawn = []
            for unit, times in enumerate(cell.draws.patients[row]):
                drawn += [cases[unit, seed]] * int(times)
            table = pd.concat(drawn)
            areas = [roc_auc_score(own["label"], own["p1"]) for _, own in table.groupby("site")]
            values = {
                "auroc": np.mean(areas),
                "accuracy": np.mean((table["p1"] > 0.5) == table["label"]),
                "brier": np.mean((table["p1"] - table["label"]) ** 2),
            }
            for name, value in values.items():
                by_seed[name] += [value] * int(cell.draws.seeds[row, place])
        assert {name: found[name, ""][row] for name in by_seed} == pytest.approx(
            {name: np.mean(values) for name, values in by_seed.items()}
        )


def test_three_classes_are_one_against_the_rest() -> None:
    rows = classified({"m": 1.0}, sites={"a": 90}, folds=1, seeds=[0], models=["global"])
    random = np.random.default_rng(1)
    scores = random.dirichlet(np.ones(3), len(rows))
    rows = rows.assign(label=random.integers(0, 3, len(rows)), p0=scores[:, 0], p1=scores[:, 1], p2=scores[:, 2])
    found = only_cell(rows).values("m", "last", "global")
    assert found["auroc", ""][0] == pytest.approx(roc_auc_score(rows["label"], scores, multi_class="ovr"))
    assert ("sensitivity", "") not in found


def test_a_threshold_decides_sensitivity_and_specificity() -> None:
    rows = classified({"m": 1.0}, sites={"a": 50}, folds=1, seeds=[0], models=["global"]).assign(threshold=0.3)
    found = only_cell(rows).values("m", "last", "global")
    assert found["sensitivity", ""][0] == pytest.approx(np.mean(rows["p1"][rows["label"] == 1] > 0.3))
    assert found["accuracy", ""][0] == pytest.approx(np.mean((rows["p1"] > 0.5) == rows["label"]))


def test_probabilities_that_are_not_finite_are_wrong_and_rank_nothing() -> None:
    rows = classified({"m": 1.0}, sites={"a": 50}, folds=1, seeds=[0], models=["global"])
    rows.loc[rows.index[:10], ["p0", "p1"]] = np.nan
    found = only_cell(rows).values("m", "last", "global")
    right = ((rows["p1"] > 0.5) == rows["label"]) & rows["p1"].notna()
    assert found["accuracy", ""][0] == pytest.approx(right.mean())
    assert np.isnan(found["auroc", ""][0])
    assert np.isnan(found["brier", ""][0])


def test_every_model_diverged() -> None:
    rows = classified({"m": 1.0}, sites={"a": 50}, models=["global"]).assign(p0=np.nan, p1=np.nan)
    result = analyse(rows, plan(rows), NO_ROUNDS, [], draws=10)
    values = {score.metric: score.value for score in result.scores if not score.site}
    assert values["accuracy"] == 0
    assert values["auroc"] is None


def test_balance_is_of_models_at_the_same_sites() -> None:
    rows = classified({"m": 1.0}, sites={"a": 40, "b": 40})
    cell = only_cell(rows)
    general, own, both = (cell.values("m", "last", model)["auroc", ""] for model in ("global", "personal", "balance"))
    assert both == pytest.approx((general + own) / 2)
    unseen = only_cell(rows[(rows["model"] == "global") | (rows["site"] == "a")])
    assert unseen.values("m", "last", "balance") == {}


def test_segmentation_leaves_out_cases_without_a_dice() -> None:
    rows = classified({"m": 1.0}, sites={"a": 4}, folds=1, seeds=[0], models=["global"]).drop(
        columns=["label", "p0", "p1"]
    )
    rows = rows.assign(dice=[0.5, np.nan, 0.0, 1.0], hd95=[2.0, np.nan, np.nan, 4.0])
    found = only_cell(rows).values("m", "last", "global")
    assert {name: found[name, ""][0] for name in ("dice", "missed", "hd95")} == pytest.approx(
        {"dice": 0.5, "missed": 1 / 3, "hd95": 3.0}
    )


def test_survival_compares_within_a_fold() -> None:
    rows = classified({"m": 1.0}, sites={"a": 4}, folds=2, seeds=[0], models=["global"]).drop(
        columns=["label", "p0", "p1"]
    )
    # Patients 0 and 2 are in fold 0, 1 and 3 in fold 1: the pairs are (0, 2), concordant, and (1, 3), not.
    rows = rows.assign(time=[1.0, 1.0, 2.0, 2.0], event=[1, 1, 0, 0], risk=[5.0, 1.0, 1.0, 5.0])
    found = only_cell(rows).values("m", "last", "global")
    assert found["c_index", "a"][0] == pytest.approx(0.5)
    assert only_cell(rows).cell.sites[0].of_each == (2, 2)


def test_two_predictions_of_a_case_are_refused() -> None:
    rows = classified({"m": 1.0}, sites={"a": 10}, seeds=[0])
    with pytest.raises(DataError, match="one prediction of each model, got two of case"):
        only_cell(pd.concat([rows, rows.iloc[:1]], ignore_index=True))
    with pytest.raises(DataError, match="stratum"):
        only_cell(rows.drop(columns="stratum"))
    with pytest.raises(DataError, match="expected the columns label, p0"):
        only_cell(rows.drop(columns="label"))
