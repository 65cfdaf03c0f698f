"""Forgetting in a study's tables: against the records' own counts, by hand, and draw by draw in a plain loop."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from consilia.evaluation.rounds import flip_rates, transfer
from consilia.federation.site_store import SiteStore, read_history
from consilia.record.study_result import load_result
from consilia.study.analysis import analyse
from consilia.study.cells import cells_of
from consilia.study.federations import federations_of
from consilia.study.forgetting import forgetting_of
from consilia.study.histories import History, SiteHistory, histories_of
from consilia.study.outputs import FORGETTING, PAGE, TABLES
from consilia.study.plan import plan_of
from consilia.study.running import run_study
from tests.study.made_study import NO_ROUNDS, classified, plan
from tests.study.small_study import federation, study, table

Bits = np.ndarray


def test_a_study_agrees_with_its_records(tmp_path: Path) -> None:
    tables = {name: table(name, cases, seed=n) for n, (name, cases) in enumerate({"a": 60, "b": 48, "c": 50}.items())}
    # Sites are sampled, so that not every round has every site; a rate that is high enough to forget.
    run = {"rounds": 5, "participation": 0.5, "training": {"local_epochs": 1, "learning_rate": 0.5, "device": "cpu"}}
    one = study(federation(tmp_path, tables), folds=2, seeds=(0, 1), run=run, baselines=("majority",))
    records = [found.record for found in run_study(one, tmp_path / "study").runs if found.record.rounds]
    assert len(records) == 4
    result = load_result(tmp_path / "study" / "study.json")
    found = {(each.metric, each.model): each for each in result.forgetting if not each.label}
    expected = {
        ("nfr", "global"): [statistics.fmean(flip_rates(record, "global").values()) for record in records],
        ("nfr", "personal"): [statistics.fmean(flip_rates(record, "personal").values()) for record in records],
        ("bwt", "global"): [statistics.fmean(transfer(record).values()) for record in records],
    }
    for key, values in expected.items():
        assert found[key].value == pytest.approx(statistics.fmean(values), abs=1e-12)
        assert found[key].runs == 4
        assert found[key].low is not None
    assert found["nfr", "global"].value > 0
    # The classes' flips are all flips, in proportion to their cases.
    cases = pd.concat(tables.values())["y"].value_counts(normalize=True)
    by_class = {each.label: each.value for each in result.forgetting if each.label and each.metric == "nfr"}
    assert set(by_class) == {"no", "yes"}
    assert sum(by_class[name] * share for name, share in cases.items()) == pytest.approx(
        found["nfr", "global"].value, rel=0.1
    )
    assert "forgetting over the rounds" in (tmp_path / "study" / TABLES).read_text()
    assert "forgetting of the global model, by class" in (tmp_path / "study" / PAGE).read_text()
    assert (tmp_path / "study" / FORGETTING).read_text().count("\n") == 1 + 3 + 4
    # The baseline has no rounds.
    assert {each.method for each in result.forgetting} == {"fedavg"}


def bits(text: str) -> Bits:
    return np.array([sign == "1" for sign in text])


def history(
    rows: pd.DataFrame, correct: dict[str, dict[int, Bits]], *, personal: dict[int, Bits] | None = None
) -> History:
    """Of one run of the method m; ``correct`` of the global model by site and version."""
    sites = {}
    for site, own in rows.groupby("site"):
        kinds = {"global": correct[str(site)], "personal": personal or {}}
        sites[str(site)] = SiteHistory(tuple(own["patient"]), own["label"].to_numpy(), kinds)
    names = tuple(sites)
    updated = dict.fromkeys(range(1, 4), names)
    return History("heart", "", "m", 0, 0, ("well", "ill"), names, names, updated, sites)


def one_site() -> pd.DataFrame:
    rows = classified({"m": 1.0}, sites={"a": 6}, folds=1, seeds=[0], models=["global"])
    return rows.assign(label=[0, 0, 0, 1, 1, 1])


def test_values_by_hand() -> None:
    rows = one_site()
    correct = {0: bits("000000"), 1: bits("111110"), 2: bits("011011"), 3: bits("111001")}
    run = history(rows, {"a": correct})
    found = analyse(rows, plan(rows), NO_ROUNDS, [], draws=20, histories=[run]).forgetting
    values = {(one.metric, one.label): one.value for one in found if one.model == "global"}
    # Newly wrong: none, 2 (of class 0 one), 1 (of class 1) of 6 cases in three versions.
    assert values["nfr", ""] == pytest.approx((0 + 2 / 6 + 1 / 6) / 3)
    assert values["nfr", "well"] == pytest.approx((0 + 1 / 3 + 0) / 3)
    assert values["nfr", "ill"] == pytest.approx((0 + 1 / 3 + 1 / 3) / 3)
    # Accuracies 5/6, 4/6, 4/6: 0 in the first version, then -1/6 and 0.
    assert values["bwt", ""] == pytest.approx(-1 / 6 / 3)
    # Recall of class 0: 1, 2/3, 1; of class 1: 2/3, 2/3, 1/3.
    assert values["forgetting", "well"] == 0
    assert values["forgetting", "ill"] == pytest.approx(1 / 3)


def test_a_fold_without_a_class_says_nothing_of_it() -> None:
    rows = one_site()
    other = rows.assign(fold=1, label=0, patient="q" + rows["patient"], case="q" + rows["case"])
    correct = {0: bits("000000"), 1: bits("111110"), 2: bits("011011"), 3: bits("111001")}
    runs = [history(rows, {"a": correct}), dataclasses.replace(history(other, {"a": correct}), fold=1)]
    both = pd.concat([rows, other], ignore_index=True)
    found = analyse(both, plan(both), NO_ROUNDS, [], draws=20, histories=runs).forgetting
    values = {(one.metric, one.label): (one.value, one.runs) for one in found if one.model == "global"}
    assert values["nfr", "ill"] == (pytest.approx((0 + 1 / 3 + 1 / 3) / 3), 1)
    assert values["forgetting", "ill"] == (pytest.approx(1 / 3), 1)
    assert values["nfr", "well"] == (pytest.approx((1 / 9 + (0 + 2 / 6 + 1 / 6) / 3) / 2), 2)


def test_every_draw_is_that_of_a_plain_loop() -> None:
    rows = classified({"m": 1.0}, sites={"a": 30, "b": 25}, folds=1, seeds=[0], models=["global"])
    draw = np.random.default_rng(3)
    correct = {
        site: {version: draw.random(len(own)) < 0.7 for version in range(4)} for site, own in rows.groupby("site")
    }
    (cell,) = cells_of(rows, seed=0, draws=60)
    found = {(one.metric, one.label): one for one in forgetting_of(cell, [history(rows, correct)])}  # type: ignore[arg-type]
    patients = {site: own["patient"].tolist() for site, own in rows.groupby("site")}
    place = {(row.site, row.patient): row.unit for row in cell.frame.itertuples()}
    by_draw: dict[tuple[str, str], list[float]] = {key: [] for key in (("nfr", ""), ("bwt", ""), ("forgetting", "ill"))}
    labels = {site: own["label"].to_numpy() for site, own in rows.groupby("site")}

    def recall(version: int, taken: dict[str, list[int]]) -> float:
        said = [correct[s][version][i] for s, chosen in taken.items() for i in chosen if labels[s][i] == 1]
        return float(np.mean(said))

    everyone = {site: list(range(len(own))) for site, own in patients.items()}
    best = max((1, 2), key=lambda version: recall(version, everyone))
    for weights in cell.draws.patients:
        taken = {
            site: [i for i, name in enumerate(own) for _ in range(int(weights[place[site, name]]))]
            for site, own in patients.items()
        }
        wrong = [
            np.mean([correct[s][v - 1][i] and not correct[s][v][i] for s, chosen in taken.items() for i in chosen])
            for v in (1, 2, 3)
        ]
        by_draw["nfr", ""].append(float(np.mean(wrong)))
        accuracy = {v: {s: np.mean(correct[s][v][chosen]) for s, chosen in taken.items()} for v in (1, 2, 3)}
        changes = [0.0] + [np.mean([accuracy[v][s] - accuracy[v - 1][s] for s in taken]) for v in (2, 3)]
        by_draw["bwt", ""].append(float(np.mean(changes)))
        by_draw["forgetting", "ill"].append(recall(best, taken) - recall(3, taken))
    for key, (value, *drawn) in by_draw.items():
        low, high = np.quantile(drawn, [0.025, 0.975])
        assert (found[key].value, found[key].low, found[key].high) == pytest.approx((value, low, high))
        assert found[key].se == pytest.approx(np.std(drawn, ddof=1))


def test_personal_models_forget_since_their_sites_last_round() -> None:
    rows = one_site()
    correct = {"a": {version: bits("111111") for version in range(4)}}
    # Trained in rounds 1 and 3: one case of six is lost, and nothing at the first time.
    own = {1: bits("111110"), 3: bits("011111")}
    result = analyse(rows, plan(rows), NO_ROUNDS, [], draws=20, histories=[history(rows, correct, personal=own)])
    found = next(one for one in result.forgetting if (one.metric, one.model) == ("nfr", "personal"))
    assert found.value == pytest.approx((0 + 1 / 6) / 2)


def test_a_site_that_keeps_predictions_saves_every_version(tmp_path: Path) -> None:
    for whole, versions in ((True, {0, 1, 2, 3, 4}), (False, {2, 3, 4})):
        store = SiteStore(tmp_path / str(whole), whole_history=whole)
        for version in range(5):
            store.count_flips("global", version, torch.tensor([version % 2 == 0]))
        assert set(read_history(tmp_path / str(whole))["global"]) == versions


def test_a_run_with_a_part_of_its_history_is_left_out(tmp_path: Path) -> None:
    one = study(federation(tmp_path), ("fedavg",))
    run_study(one, tmp_path / "study")
    planned = plan_of(federations_of(one, tmp_path / "study"), None)
    assert len(list(histories_of(planned))) == 1
    for file in (tmp_path / "study").rglob("correctness.safetensors"):
        file.unlink()
    assert list(histories_of(planned)) == []
