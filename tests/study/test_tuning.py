"""Settings chosen on validation cases: by whose losses, where, within what budget, and never twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from consilia.core.errors import ConfigError
from consilia.federation.config import RunConfig
from consilia.record.schema import Record
from consilia.study import execute as engine
from consilia.study.federations import federations_of
from consilia.study.grid import Grid
from consilia.study.one_run import try_one
from consilia.study.outputs import TABLES
from consilia.study.plan import Planned
from consilia.study.running import run_study, tune_study
from consilia.study.study import Study
from consilia.study.tuning import CHOICES, RATE, TUNING, Choice, read_choices, settings_of, tune, validation_of
from tests.methods.plugins import plugin
from tests.report.factory import make_record
from tests.study.failing_methods import Diverging
from tests.study.small_study import SPEC, federation, study, table

PLUGIN = Path(__file__).parent / "failing_methods.py"
TWO_RATES = {"learning_rate": [0.03, 0.3], "extensions": 0, "own": False}

Losses = Sequence[Mapping[str, tuple[float, int]]]
"""For each version from 0 on, the validation loss and cases of every site."""


def record_of(losses: Losses, personal: Mapping[str, tuple[float, int]] | None = None) -> Record:
    """A record with these validation losses of the global model, and of the personal ones; test losses say nothing."""
    content = make_record(rounds=1, test_only=False).plain()
    content["sites"] = {"a": content["sites"]["Ashford"], "b": content["sites"]["Bergen"]}
    content |= {"rounds": [], "absences": []}
    content["evaluations"] = [
        {"version": version, "model": "global", "sites": validated(sites)} for version, sites in enumerate(losses)
    ]
    final = {**content["final"]["last"], "global": {}, "personal": validated(personal or {})}
    content["final"] = {"last": final, "best": final}
    return Record.model_validate(content)


def validated(sites: Mapping[str, tuple[float, int]]) -> dict[str, Any]:
    def split(loss: float, count: int) -> dict[str, Any]:
        values = {"count": count, "correct": 0, "accuracy": 0.0, "balanced_accuracy": 0.0, "auroc": None, "loss": loss}
        return {**values, "negative_flips": None, "positive_flips": None}

    # The test loss is the better the worse the validation loss is.
    return {site: {"validation": split(*found), "test": split(1 / (1 + found[0]), 10)} for site, found in sites.items()}


def tuned(
    own: Study, folder: Path, loss: Callable[[RunConfig], float], personal: Callable[[RunConfig], float] | None = None
) -> tuple[dict[str, Choice], list[str]]:
    """Choices by label, and the runs that were made, where a run's validation loss follows from its configuration."""
    made = []

    def execute(plan: Sequence[Planned]) -> list[Planned]:
        ended = []
        for one in plan:
            assert one.config is not None
            made.append(f"{one.label} {one.words}")
            found = {"a": (personal(one.config), 10)} if personal else None
            ended.append(one.ended("done", record=record_of([{}, {"a": (loss(one.config), 10)}], found)))
        return ended

    choices = tune(own, federations_of(own, folder), None, folder, execute)
    return {choice.label: choice for choice in choices}, made


def test_the_loss_is_pooled_over_cases_and_the_best_round_counts() -> None:
    record = record_of(
        [
            {"a": (0.1, 30), "b": (0.1, 10)},  # the initial model's
            {"a": (0.5, 30), "b": (0.9, 10)},  # (15 + 9) / 40 = 0.6
            {"a": (0.7, 30), "b": (0.1, 10)},  # (21 + 1) / 40 = 0.55
            {"a": (0.6, 30), "b": (0.5, 10)},  # (18 + 5) / 40 = 0.575
        ],
        {"a": (0.2, 30)},
    )
    assert validation_of(record) == pytest.approx(-0.55)
    # Without a global model the personal ones stand for it.
    assert validation_of(record_of([], {"a": (0.2, 30), "b": (0.6, 10)})) == pytest.approx(-0.3)
    assert validation_of(record_of([])) is None


def test_a_method_s_own_parameter_is_tuned_at_the_best_rate(tmp_path: Path) -> None:
    methods = {
        "fedprox": {"method": "fedprox"},
        "fixed": {"method": {"method": "fedprox", "mu": 0.5}},
        "majority": {"baseline": "majority"},
    }
    own = study(federation(tmp_path), methods, tune={"learning_rate": [0.01, 0.1, 1.0]})

    def loss(config: RunConfig) -> float:
        """Best at a learning rate of 0.1, and FedProx's mu of 0.01."""
        return abs(math.log10(config.training.learning_rate) + 1) + abs(math.log10(config.method.mu) + 2) / 10

    choices, made = tuned(own, tmp_path / "study", loss)
    assert choices["fedprox"].chosen == {RATE: 0.1, "method.mu": 0.01}
    assert choices["fixed"].chosen == {RATE: 0.1}
    assert set(choices) == {"fedprox", "fixed"}
    grid = [f"learning_rate={rate:g}" for rate in (0.01, 0.1, 1)]
    assert made == [
        *[f"{label} {rate}" for label in ("fedprox", "fixed") for rate in grid],
        *[f"fedprox learning_rate=0.1,mu={mu:g}" for mu in (0.001, 0.01, 0.1, 1)],
    ]
    saved = {choice.label: choice for choice in read_choices(tmp_path / "study")}
    assert saved == choices


def test_a_grid_grows_twice_at_the_most_and_its_end_is_written_down(tmp_path: Path) -> None:
    own = study(federation(tmp_path), tune={"learning_rate": [0.01, 0.1]})
    choices, made = tuned(own, tmp_path / "study", lambda config: 1 / config.training.learning_rate)
    assert made == [f"fedavg learning_rate={rate}" for rate in ("0.01", "0.1", "1", "10")]
    assert choices["fedavg"].chosen == {RATE: pytest.approx(10)}
    assert choices["fedavg"].edges == {RATE: "the best value stands at the end of the grid"}


def test_a_parameter_ends_at_the_limit_that_its_method_sets(tmp_path: Path) -> None:
    """FedRep's head_share, 0.2 to 0.8, lies below 1: the next value, 1.28, is none, though there are some nearer."""
    own = study(federation(tmp_path), ("fedrep",), run={"rounds": 2, "training": {"local_epochs": 2}})
    choices, made = tuned(own.changed(tune={}), tmp_path / "study", lambda config: 1 - config.method.head_share)
    assert choices["fedrep"].chosen["method.head_share"] == 0.8
    assert choices["fedrep"].edges["method.head_share"] == "the next value is beyond the parameter's limit"
    assert made[-1].endswith("head_share=0.8")


def test_of_equal_global_models_the_better_personal_ones(tmp_path: Path) -> None:
    own = study(federation(tmp_path), ("ditto",), tune=TWO_RATES | {"own": True})
    choices, _ = tuned(
        own,
        tmp_path / "study",
        lambda config: config.training.learning_rate,
        lambda config: abs(config.method.lam - 0.1),
    )
    assert choices["ditto"].chosen == {RATE: 0.03, "method.lam": 0.1}


def test_a_setting_is_judged_by_its_mean_over_the_seeds(tmp_path: Path) -> None:
    own = study(federation(tmp_path), tune={"learning_rate": [0.1, 0.2], "seeds": [0, 1]})
    losses = {(0.1, 0): 0.5, (0.1, 1): 0.7, (0.2, 0): 0.4, (0.2, 1): 1.0}
    choices, made = tuned(own, tmp_path / "study", lambda config: losses[config.training.learning_rate, config.seed])
    assert choices["fedavg"].chosen == {RATE: 0.1}
    first, second = choices["fedavg"].tried
    assert (first.value, second.value) == (pytest.approx(-0.6), pytest.approx(-0.7))
    # The change, 0.1, is below the deviation over the seeds, 0.141: the grid does not grow.
    assert first.sd == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert len(made) == 4
    assert choices["fedavg"].edges == {}


@pytest.mark.parametrize("key", ["training.learning_rate=0.1", "method.mu=1"])
def test_what_is_tuned_cannot_be_set(tmp_path: Path, key: str) -> None:
    own = study(federation(tmp_path), ("fedprox",), tune={})
    with pytest.raises(ConfigError, match="the study tunes this key"):
        run_study(own, tmp_path / "study", overrides=[key], jobs=1)
    assert not (tmp_path / "study").exists()


def pooled_losses(folder: Path) -> float:
    """The lowest validation loss over the rounds of a run, from its file alone."""
    content = json.loads((folder / "result.json").read_text())
    by_round = []
    for one in content["evaluations"]:
        if one["model"] == "global" and one["version"] > 0:
            splits = [site["validation"] for site in one["sites"].values()]
            by_round.append(sum(s["loss"] * s["count"] for s in splits) / sum(s["count"] for s in splits))
    return min(by_round)


def test_a_study_runs_with_the_setting_of_lowest_recorded_loss(tmp_path: Path) -> None:
    own = study(federation(tmp_path), ("fedavg", "fedprox"), baselines=("centralised",), tune=TWO_RATES | {"own": True})
    runs = run_study(own, tmp_path / "study", jobs=1).runs
    assert {run.record.run.label for run in runs} == {"fedavg", "fedprox", "centralised"}
    for run in runs:
        label = run.record.run.label
        grid = sorted((tmp_path / "study" / TUNING / label).iterdir())
        losses = {place.name: pooled_losses(place / "seed0") for place in grid}
        rates = {name: loss for name, loss in losses.items() if "mu" not in name}
        words = min(rates, key=lambda name: rates[name])
        assert run.record.config["training"]["learning_rate"] == float(words.partition("=")[2])
        if label == "fedprox":
            own_values = {name: loss for name, loss in losses.items() if "mu" in name}
            assert {name.partition(",")[0] for name in own_values} == {words}
            words = min(own_values, key=lambda name: own_values[name])
            assert run.record.config["method"]["mu"] == float(words.rpartition("=")[2])
    text = (tmp_path / "study" / TABLES).read_text()
    assert "Settings were chosen on validation cases, seed 0: learning rates 0.03, 0.3, then one parameter" in text


def test_no_run_is_made_twice_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, keys = federation(tmp_path), {"tune": TWO_RATES}
    whole = tune_study(study(data, ("fedavg", "fedprox"), **keys), tmp_path / "whole", jobs=1)
    begun: list[str] = []

    def killed(work: Any, progress: Any) -> Any:
        if len(begun) == 3:
            raise KeyboardInterrupt
        begun.append(str(work.folder.relative_to(tmp_path / "study")))
        return try_one(work, progress)

    monkeypatch.setattr(engine, "try_one", killed)
    with pytest.raises(KeyboardInterrupt):
        tune_study(study(data, ("fedavg", "fedprox"), **keys), tmp_path / "study", jobs=1)
    assert not (tmp_path / "study" / TUNING / CHOICES).exists()

    def goes_on(work: Any, progress: Any) -> Any:
        begun.append(str(work.folder.relative_to(tmp_path / "study")))
        return try_one(work, progress)

    monkeypatch.setattr(engine, "try_one", goes_on)
    assert tune_study(study(data, ("fedavg", "fedprox"), **keys), tmp_path / "study", jobs=1) == whole
    grid = [f"tuning/{label}/learning_rate={rate}/seed0" for label in ("fedavg", "fedprox") for rate in (0.03, 0.3)]
    assert begun == grid
    # Nor where it has come to its end.
    assert tune_study(study(data, ("fedavg", "fedprox"), **keys), tmp_path / "study", jobs=1) == whole
    assert begun == grid


def test_the_budget_holds_within_tuning_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    data = federation(tmp_path)
    poor = study(data, ("fedavg", "fedprox"), tune=TWO_RATES, budget=1e-9)
    runs = run_study(poor, tmp_path / "study", jobs=1)
    assert runs.runs == ()
    assert [(one.label, one.status, one.reason) for one in runs.without] == [
        (label, "not run", "the budget is spent") for label in ("fedavg", "fedprox")
    ]
    found = {choice.label: choice for choice in read_choices(tmp_path / "study")}
    # The run that was begun has ended, and no other.
    assert [tried.reason for tried in found["fedavg"].tried] == ["", "the budget is spent"]
    assert [tried.reason for tried in found["fedprox"].tried] == ["the budget is spent"] * 2
    assert found["fedprox"].edges == {RATE: "no value has a result"}
    went_on = tune_study(poor.changed(budget=1.0), tmp_path / "study", jobs=1)
    assert went_on == tune_study(study(data, ("fedavg", "fedprox"), tune=TWO_RATES), tmp_path / "whole", jobs=1)
    assert not any(tried.reason for choice in went_on for tried in choice.tried)


def test_a_method_whose_every_setting_fails_runs_with_its_own_and_says_so(tmp_path: Path) -> None:
    with plugin(PLUGIN):
        own = study(federation(tmp_path), ("fedavg", Diverging.name), tune=TWO_RATES)
        runs = run_study(own, tmp_path / "study", jobs=1)
    assert [run.record.run.label for run in runs.runs] == ["fedavg"]
    assert [(one.label, one.status, one.rate) for one in runs.without] == [("diverging", "failed", "")]
    found = {choice.label: choice for choice in read_choices(tmp_path / "study")}
    assert found["diverging"].chosen == {}
    assert all("holds NaN" in tried.reason for tried in found["diverging"].tried)


def test_inside_each_fold_or_on_the_first_alone(tmp_path: Path) -> None:
    data = federation(tmp_path)
    losses = {("fold-0", 0.1): 0.4, ("fold-0", 0.2): 0.3, ("fold-1", 0.1): 0.1, ("fold-1", 0.2): 0.2}
    for folds, expected in (("each", [0.2, 0.1]), ("first", [0.2])):
        grid = {"learning_rate": [0.1, 0.2], "extensions": 0, "folds": folds}
        own = study(data, folds=2, tune=grid)

        def execute(plan: Sequence[Planned]) -> list[Planned]:
            return [
                one.ended("done", record=record_of([{}, {"a": (losses[one.federation.folder.name, rate_of(one)], 9)}]))
                for one in plan
            ]

        choices = tune(own, federations_of(own, tmp_path / folds), None, tmp_path / folds, execute)
        assert [choice.chosen[RATE] for choice in choices] == expected
        settings = settings_of(choices, own.tune or Grid())
        chosen = [settings(fold, "fedavg").overrides for fold in federations_of(own, tmp_path / folds)]
        assert chosen == [(f"{RATE}={rate}",) for rate in (*expected, *expected)[:2]]


def rate_of(one: Planned) -> float:
    assert one.config is not None
    return one.config.training.learning_rate


def test_a_fold_runs_with_its_own_choice(tmp_path: Path) -> None:
    own = study(federation(tmp_path), folds=2, tune=TWO_RATES | {"folds": "each"})
    runs = run_study(own, tmp_path / "study", jobs=1).runs
    chosen = {choice.federation: choice.chosen[RATE] for choice in read_choices(tmp_path / "study")}
    assert set(chosen) == {"fold 0", "fold 1"}
    for fold, run in enumerate(runs):
        grid = tmp_path / "study" / TUNING / f"fold-{fold}" / "fedavg"
        losses = {rate: pooled_losses(grid / f"learning_rate={rate}" / "seed0") for rate in (0.03, 0.3)}
        assert run.record.config["training"]["learning_rate"] == min(losses, key=lambda rate: losses[rate])
        assert chosen[f"fold {fold}"] == run.record.config["training"]["learning_rate"]
    assert "inside each fold" in (tmp_path / "study" / TABLES).read_text()


def test_a_site_that_is_left_out_has_no_part_in_what_it_is_tested_with(tmp_path: Path) -> None:
    tables = {site: table(site, 40, seed) for seed, site in enumerate("abc")}
    own = study(federation(tmp_path, tables), leave_out=("a", "b"), tune=TWO_RATES)
    runs = run_study(own, tmp_path / "study", jobs=1).runs
    choices = {choice.left_out: choice for choice in read_choices(tmp_path / "study")}
    assert set(choices) == {"a", "b"}
    for run in runs:
        assert run.left_out is not None
        place = tmp_path / "study" / TUNING / f"without-{run.left_out}" / "fedavg" / "learning_rate=0.3" / "seed0"
        sites = json.loads((place / "result.json").read_text())["sites"]
        assert [name for name, site in sites.items() if site["validation"]] == [
            name for name in "abc" if name != run.left_out
        ]
        assert run.record.config["training"]["learning_rate"] == choices[run.left_out].chosen[RATE]


def test_partitions_of_a_pooled_data_set_are_tuned_and_compared(tmp_path: Path) -> None:
    table("p", 120).to_csv(tmp_path / "pool.csv", index=False)
    table("t", 40, seed=1).to_csv(tmp_path / "official.csv", index=False)
    content = {"dataset": "d", "common": dict(SPEC), "pooled": {"file": "pool.csv"}}
    content |= {"partition": {"by": "dirichlet", "sites": 3, "alpha": 1.0}, "test_only": {"file": "official.csv"}}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
    own = study(str(tmp_path / "data.yaml"), ("fedavg", "fedprox"), partitions=(0, 1), tune=TWO_RATES)
    result = run_study(own, tmp_path / "study", jobs=1)
    assert [choice.federation for choice in read_choices(tmp_path / "study")] == ["partition 0"] * 2
    # Each partition has its own training cases, all have the official test cases, and the setting of the first.
    sites = [run.record.sites for run in result.runs]
    assert [sum(site.train + site.validation + site.test for site in one.values()) for one in sites] == [160] * 4
    assert {one["evaluator"].test for one in sites} == {40}
    assert sites[0] == sites[1] != sites[2] == sites[3]
    rates = {run.record.run.label: run.record.config["training"]["learning_rate"] for run in result.runs}
    assert rates == {choice.label: choice.chosen[RATE] for choice in read_choices(tmp_path / "study")}
    assert result.result is not None
    (cell,) = result.result.cells
    assert cell.folds == (0, 1)
    # The official test patients count once, though two partitions test them.
    assert {site.site: site.patients for site in cell.sites}["evaluator"] == 40
    # They alone judge the global model, in the mean over the partitions.
    scores = [
        score
        for score in result.result.scores
        if score.metric == "accuracy" and score.version == "last" and not score.subgroup
    ]
    assert {score.site for score in scores if score.model == "global"} == {"", "evaluator"}
    finals = [run.record.final["last"].global_["evaluator"].test for run in result.runs[::2]]
    found = [score.value for score in scores if (score.method, score.model) == ("fedavg", "global")]
    assert found == [pytest.approx(np.mean([part.accuracy for part in finals]))] * 2
    assert not [score for score in scores if score.model == "balance"]
    assert "on the first partition alone" in (tmp_path / "study" / TABLES).read_text()


@pytest.mark.parametrize(("folds", "division"), [("first", "fold"), ("first", "partition"), ("each", "fold")])
def test_the_tables_say_where_settings_have_seen_patients_of_other_folds(folds: str, division: str) -> None:
    words = Grid.model_validate({"folds": folds}).words((0, 1), division)
    assert ("test patients of other folds" in words) == ((folds, division) == ("first", "fold"))
