"""Verdicts on claims, and what stands beside them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy.stats import wilcoxon
from sklearn.metrics import roc_auc_score

from consilia.record.study_result import StudyResult
from consilia.study.analysis import analyse
from consilia.study.claims import Claim
from consilia.study.contrasts import verdict_of, wilcoxon_p
from tests.study.made_study import NO_ROUNDS, classified, plan

AUROC = Claim(name="c", metric="auroc", method="m", against="n")


@pytest.mark.parametrize(
    ("low", "high", "adjusted", "changed", "expected"),
    [
        (0.01, 0.05, 0.01, {}, "confirmed"),
        (0.01, 0.05, 0.06, {}, "not decided"),  # not after Holm
        (0.001, 0.009, 0.01, {}, "confirmed"),
        (0.001, 0.009, 0.06, {}, "equivalent"),
        (-0.05, -0.01, 0.01, {}, "refuted"),
        (-0.009, -0.001, 0.01, {}, "refuted"),
        (-0.009, 0.009, 1.0, {}, "equivalent"),
        (0.0, 0.0, 1.0, {}, "equivalent"),
        (-0.011, 0.009, 1.0, {}, "not decided"),
        (-0.05, 0.05, 1.0, {}, "not decided"),
        (0.005, 0.015, 0.01, {"least": 0.02}, "refuted"),  # above 0, but wholly below the claimed effect
        (0.005, 0.025, 0.01, {"least": 0.02}, "confirmed"),
        (-0.03, 0.02, 1.0, {"equivalent_within": 0.05}, "equivalent"),
        (-0.005, 0.005, 1.0, {"metric": "accuracy"}, "not decided"),  # the margin is of AUROC
        (-0.005, 0.005, 1.0, {"metric": "accuracy", "equivalent_within": 0.01}, "equivalent"),
        (None, None, None, {}, "not decided"),
    ],
)
def test_verdicts(low: float, high: float, adjusted: float, changed: dict[str, object], expected: str) -> None:
    assert verdict_of(AUROC.model_copy(update=changed), low, high, adjusted)[0] == expected


def made(*claims: Claim, seeds: tuple[int, ...] = (0, 1), **strength: float) -> StudyResult:
    rows = classified(strength, sites={"a": 60, "b": 50}, folds=2, seeds=seeds)
    return analyse(rows, plan(rows), NO_ROUNDS, claims, draws=300)


def test_the_difference_is_paired_and_by_site() -> None:
    rows = classified({"m": 2.0, "n": 0.5}, sites={"a": 60, "b": 50}, folds=1, seeds=[0], models=["global"])
    (found,) = analyse(rows, plan(rows), NO_ROUNDS, [AUROC], draws=300).contrasts
    by_site = {}
    for site, own in rows.groupby("site"):
        areas = {name: roc_auc_score(one["label"], one["p1"]) for name, one in own.groupby("method")}
        by_site[site] = areas["m"] - areas["n"]
    assert {unit.name: unit.value for unit in found.units} == pytest.approx(by_site)
    assert found.value == pytest.approx(np.mean(list(by_site.values())))
    assert found.detectable == pytest.approx(2.8 * found.se)
    assert (found.verdict, found.unit, found.runs, found.planned, found.patients) == ("confirmed", "site", 1, 1, 110)


def test_equal_methods_are_equivalent_and_lower_is_better_turned() -> None:
    rows = classified({"m": 2.0, "n": 0.3}, sites={"a": 60}, folds=1, seeds=[0])
    twin = rows[rows["method"] == "m"].assign(method="twin")
    rows = pd.concat([rows, twin], ignore_index=True)
    claims = [
        Claim(name="same", metric="auroc", method="m", against="twin"),
        Claim(name="brier", metric="brier", method="m", against="n"),
    ]
    same, brier = analyse(rows, plan(rows), NO_ROUNDS, claims, draws=200).contrasts
    assert (same.value, same.low, same.high, same.verdict) == (0, 0, 0, "equivalent")
    scores = {
        name: np.mean((own["p1"] - own["label"]) ** 2) for name, own in rows[rows.model == "global"].groupby("method")
    }
    assert brier.value == pytest.approx(scores["n"] - scores["m"])
    assert brier.value > 0


def test_holm_is_over_all_claims_also_those_without_runs() -> None:
    alone = made(AUROC, m=2.0, n=0.5).contrasts[0]
    more = made(
        AUROC, *(Claim(name=f"{k}", metric="auroc", method="m", against=f"no{k}") for k in range(4)), m=2.0, n=0.5
    )
    assert more.contrasts[0].p == alone.p
    assert more.contrasts[0].holm == pytest.approx(5 * alone.p)
    assert [one.verdict for one in more.contrasts[1:]] == ["not decided"] * 4
    assert "no predictions of no0, global model" in more.contrasts[1].reason


def test_only_the_runs_that_both_have_are_compared() -> None:
    rows = classified({"m": 1.5, "n": 0.5}, sites={"a": 60}, seeds=[0, 1], models=["global"])
    planned = plan(rows)
    lost = (rows["method"] == "n") & (rows["seed"] == 1) & (rows["fold"] == 2)
    (found,) = analyse(rows[~lost], planned, NO_ROUNDS, [AUROC], draws=100).contrasts
    assert (found.runs, found.planned) == (5, 6)
    assert "only 5 of 6 planned runs of both" in found.reason
    lost_by_both = (rows["seed"] == 1) & (rows["fold"] == 2)
    (expected,) = analyse(rows[~lost_by_both], planned, NO_ROUNDS, [AUROC], draws=100).contrasts
    assert (found.value, found.low, found.high) == (expected.value, expected.low, expected.high)


def test_methods_tested_on_different_cases_are_not_compared() -> None:
    rows = classified({"m": 1.5, "n": 0.5}, sites={"a": 60}, seeds=[0], models=["global"])
    first = rows.index[rows["method"] == "n"][0]
    (found,) = analyse(rows.drop(index=first), plan(rows), NO_ROUNDS, [AUROC], draws=50).contrasts
    assert found.value is None
    assert "tested on different cases" in found.reason


def test_several_data_sets_are_averaged_and_listed() -> None:
    parts = [classified({"m": 1.5, "n": 0.5}, sites={"a": 50}, seeds=[0], data=f"d{k}", random=k) for k in range(6)]
    rows = pd.concat(parts, ignore_index=True)
    (found,) = analyse(rows, plan(rows), NO_ROUNDS, [AUROC], draws=100).contrasts
    assert found.unit == "data set"
    assert [unit.name for unit in found.units] == [f"d{k}" for k in range(6)]
    values = [unit.value for unit in found.units]
    assert found.value == pytest.approx(np.mean(values))
    assert found.wilcoxon == pytest.approx(wilcoxon(values).pvalue)
    single = analyse(parts[0], plan(parts[0]), NO_ROUNDS, [AUROC], draws=100).contrasts[0]
    assert single.value == pytest.approx(values[0])


def test_options_of_one_data_set_are_no_further_patients() -> None:
    rows = classified({"m": 1.5, "n": 1.0}, sites={"a": 60}, folds=1, seeds=[0], models=["global"])
    options = pd.concat([rows.assign(option=name) for name in "uvwxyz"], ignore_index=True)
    (once,) = analyse(rows, plan(rows), NO_ROUNDS, [AUROC], draws=300).contrasts
    (found,) = analyse(options, plan(options), NO_ROUNDS, [AUROC], draws=300).contrasts
    # The same predictions of the same patients six times say no more than once, and are no six data sets.
    assert (found.value, found.low, found.high) == pytest.approx((once.value, once.low, once.high))
    assert found.se == pytest.approx(once.se)
    assert (found.patients, found.wilcoxon, len(found.units)) == (60, None, 6)


def test_wilcoxon_needs_six_units() -> None:
    assert wilcoxon_p([0.1, 0.2, 0.3, 0.4, 0.5]) is None
    assert wilcoxon_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 2**6)
    assert wilcoxon_p([0.0] * 8) is None


def test_one_site_one_seed_one_fold_and_the_interval_of_no_variation() -> None:
    rows = classified({"m": 1.5, "n": 0.5}, sites={"a": 40}, folds=1, seeds=[0])
    (found,) = analyse(rows, plan(rows), NO_ROUNDS, [AUROC], draws=100).contrasts
    assert found.low is not None
    lone = rows[rows["patient"] == "p0"]
    (found,) = analyse(
        lone, plan(lone), NO_ROUNDS, [Claim(name="x", metric="brier", method="m", against="n")]
    ).contrasts
    assert (found.low, found.p, found.verdict, found.reason) == (None, None, "not decided", "no interval")


def test_best_is_above_all_others_at_once() -> None:
    result = made(m=4.0, n=0.5, o=0.4)
    found = next(one for one in result.best if one.model == "global")
    assert (found.top, found.best) == ("m", True)
    close = next(one for one in made(m=1.0, n=0.98, o=0.2).best if one.model == "global")
    assert not close.best
    assert min(pair.low for pair in close.pairs) <= 0


def test_a_copy_of_a_method_is_no_rival_of_it() -> None:
    rows = classified({"m": 4.0, "n": 0.5}, sites={"a": 60}, models=["global"])
    copy = rows[rows["method"] == "m"].assign(method="copy")
    both = pd.concat([rows, copy], ignore_index=True)
    (found,) = [one for one in analyse(both, plan(both), NO_ROUNDS, [], draws=200).best if one.model == "global"]
    assert (found.top, found.best, [pair.method for pair in found.pairs]) == ("m", True, ["n"])
    assert found.left_out == ()


def test_simultaneous_intervals_are_wider_than_those_of_one_pair() -> None:
    result = made(Claim(name="c", metric="auroc", method="m", against="n"), m=3.0, n=1.0, o=0.5, p=0.4)
    found = next(one for one in result.best if one.model == "global")
    pair = next(pair for pair in found.pairs if pair.method == "n")
    one = result.contrasts[0]
    assert pair.value == pytest.approx(one.value)
    assert pair.high - pair.low > one.high - one.low


def test_ratio_to_centralised() -> None:
    rows = classified({"fed": 1.0, "centralised": 2.0}, sites={"a": 60}, folds=1, seeds=[0], models=["global"])
    ratios = analyse(rows, plan(rows), NO_ROUNDS, [], draws=100).ratios
    (found,) = [one for one in ratios if (one.metric, one.site) == ("auroc", "")]
    areas = {name: roc_auc_score(own["label"], own["p1"]) for name, own in rows.groupby("method")}
    assert (found.method, found.reference) == ("fed", "centralised")
    assert found.value == pytest.approx(areas["fed"] / areas["centralised"])
    assert found.low < found.value < found.high


def test_a_run_that_is_the_same_as_another_takes_its_predictions() -> None:
    rows = classified({"fedavg": 1.0, "linear": 0.8}, sites={"a": 40}, seeds=[0, 1], models=["global"])
    runs = plan(rows)
    twins = runs[runs["method"] == "fedavg"].assign(method="fedntd", status="same as", reason="fedavg: two classes")
    repeated = (runs["method"] == "linear") & (runs["seed"] == 1)
    runs.loc[repeated, ["status", "reason"]] = ["same as", "linear: no randomness"]
    rows = rows[~((rows["method"] == "linear") & (rows["seed"] == 1))]
    claims = [
        Claim(name="ntd", metric="auroc", method="fedntd", against="fedavg"),
        Claim(name="linear", metric="auroc", method="fedavg", against="linear"),
    ]
    same, linear = analyse(rows, pd.concat([runs, twins], ignore_index=True), NO_ROUNDS, claims, draws=50).contrasts
    assert (same.value, same.low, same.high, same.runs) == (0, 0, 0, 6)
    assert linear.runs == 6


def test_subgroups_and_spread() -> None:
    rows = classified({"m": 1.0}, sites={"a": 50, "b": 50}, folds=1, seeds=[0], models=["global"])
    rows["group:age"] = np.where(rows["patient"].str[-1].isin(list("01234")), "young", "old")
    result = analyse(rows, plan(rows), NO_ROUNDS, [], draws=50)
    young = rows[rows["group:age"] == "young"]
    score = next(one for one in result.scores if one.subgroup == "age: young" and one.metric == "accuracy")
    assert score.value == pytest.approx(np.mean((young["p1"] > 0.5) == young["label"]))
    areas = {site: roc_auc_score(own["label"], own["p1"]) for site, own in rows.groupby("site")}
    spread = next(one for one in result.spreads if one.metric == "auroc")
    assert (spread.worst_site, spread.worst) == (min(areas, key=areas.get), pytest.approx(min(areas.values())))
    assert spread.range == pytest.approx(max(areas.values()) - min(areas.values()))
    assert spread.sd == pytest.approx(np.std(list(areas.values()), ddof=1))


def test_claims_are_refused_that_cannot_be() -> None:
    with pytest.raises(ValidationError, match="no metric 'aurok' of a study; did you mean 'auroc'"):
        Claim(name="c", metric="aurok", method="m", against="n")
    with pytest.raises(ValidationError, match="expected two labels, got 'm' twice"):
        Claim(name="c", metric="auroc", method="m", against="m")
