"""Consilia from Python: the same runs, metrics, answers and errors as the command line's."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import consilia
from consilia.core.errors import CheckpointError, ConfigError
from consilia.record.files import load_record
from consilia.study.running import FinishedRun
from tests.cli.support import consilia as command
from tests.conftest import REPOSITORY

FAST = {"training.local_epochs": 1, "rounds": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return consilia.run("fedkper", settings=FAST, out=tmp_path_factory.mktemp("api") / "run")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> consilia.Comparison:
    content = {"methods": {"mine": {"method": {"method": "fedprox", "mu": 0.5}}}, "seeds": [0, 1]}
    out = tmp_path_factory.mktemp("api") / "study"
    return consilia.compare(content, only=["mine"], rounds=1, out=out)


def test_import_loads_the_functions_when_they_are_asked_for() -> None:
    code = "import sys, consilia; print('torch' in sys.modules); consilia.load; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "True"]
    assert set(consilia.__all__) <= set(dir(consilia))
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        consilia.runn  # noqa: B018


def test_a_run_is_the_command_lines(finished: FinishedRun, tmp_path: Path) -> None:
    told = command(
        *("run", "fedkper", "--engine", "inprocess", "--rounds", 2, "--set", "training.local_epochs=1"),
        *("--out", tmp_path / "run"),
    )
    there = load_record(tmp_path / "run" / "result.json")
    assert there.final["last"].sha256 == finished.record.final["last"].sha256
    assert there.run.id == finished.record.run.id
    # Each other's finished run is found, not run again.
    assert consilia.run("fedkper", settings=FAST, out=tmp_path / "run").found
    assert f"{100 * (finished.metrics['global_accuracy'] or 0):.1f}" in told
    assert finished.models == {name: finished.folder / f"global-{name}.safetensors" for name in ("last", "best")}


def test_the_frame_of_a_run_has_the_metrics_of_its_record(finished: FinishedRun) -> None:
    frame = finished.to_frame()
    assert list(frame.columns[:7]) == ["version", "model", "site", "split", "count", "correct", "accuracy"]
    assert not any(name.startswith("curves") for name in frame)
    content = json.loads((finished.folder / "result.json").read_text())
    # 2 versions x 2 models x 4 sites x 2 splits
    assert len(frame) == 32
    for row in frame.to_dict("records"):
        there = content["final"][row["version"]][row["model"]][row["site"]][row["split"]]
        assert (row["count"], row["accuracy"], row["loss"]) == (there["count"], there["accuracy"], there["loss"])
        assert pd.isna(row["auroc"]) if there["auroc"] is None else row["auroc"] == there["auroc"]
    last = frame.query("version == 'last' and model == 'global' and split == 'test'")
    assert last["correct"].sum() / last["count"].sum() == pytest.approx(finished.metrics["global_accuracy"])


def test_a_study_has_mean_deviation_and_number_of_its_seeds(study: consilia.Comparison) -> None:
    frame = study.to_frame()
    assert list(frame.columns) == ["method", "version", "metric", "mean", "sd", "n"]
    values = [run.metrics["global_accuracy"] for run in study.runs]
    row = frame.query("method == 'mine' and version == 'last' and metric == 'global_accuracy'").iloc[0]
    assert (row["mean"], row["sd"], row["n"]) == (statistics.fmean(values), statistics.stdev(values), 2)
    assert set(frame["version"]) == {"last", "best", "rounds"}
    assert [record.run.name for record in study.records] == [run.record.run.name for run in study.runs]
    assert study.records[0].config["method"] == {"method": "fedprox", "mu": 0.5}
    assert (study.folder / "report.html").is_file()


@pytest.mark.slow
def test_sites_left_out_in_turn_come_first(tmp_path: Path) -> None:
    found = consilia.compare({}, only=["majority"], leave_out=["hospital-1", "hospital-2"], out=tmp_path / "study")
    frame = found.to_frame()
    assert frame.columns[0] == "left_out"
    accuracy = frame.query("version == 'last' and metric == 'global_accuracy'").set_index("left_out")["mean"]
    table = pd.read_csv(tmp_path / "study" / "results.csv").query("metric == 'accuracy' and version == 'last'")
    by_site = table[(table["model"] == "global") & table["site"].notna()].set_index("site")["value"]
    assert accuracy.to_dict() == pytest.approx(by_site.to_dict())


def test_a_model_is_judged_and_used_as_by_the_command_line(finished: FinishedRun, tmp_path: Path) -> None:
    model, sites = finished.models["best"], finished.folder / "sites"
    site, cases = sites / "hospital-3" / "site.yaml", sites / "hospital-2" / "cases.csv"
    found = consilia.evaluate(model, site=site, out=tmp_path / "mine")
    command("evaluate", model, "--site", site, "--out", tmp_path / "theirs")
    there = json.loads((tmp_path / "theirs" / "metrics.json").read_text())
    assert json.loads((tmp_path / "mine" / "metrics.json").read_text()) == there
    frame = found.to_frame().set_index("metric")
    assert list(frame.columns) == ["value", "low", "high", "se"]
    assert frame.loc["operating.sensitivity", "value"] == there["metrics"]["operating"]["sensitivity"]
    assert frame.loc["auroc", ["low", "high"]].to_list() == [
        there["metrics"]["intervals"]["auroc"][end] for end in ("low", "high")
    ]
    loaded = consilia.load(str(model))
    assert (loaded.card.method, loaded.card.kind) == ("fedkper", "global-best")
    assert loaded.evaluate(site=site).metrics == found.metrics
    command("predict", model, "--site", site, "--cases", cases, "--out", tmp_path / "answers.csv")
    answers = loaded.predict(cases, site=site).to_frame()
    pd.testing.assert_frame_equal(answers, pd.read_csv(tmp_path / "answers.csv"), atol=1e-6)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "method": (lambda out: consilia.run("fedavgg", out=out), "no method 'fedavgg' here; did you mean 'fedavg'"),
    "key": (lambda out: consilia.run("fedavg", settings={"rouns": 3}, out=out), "unknown key; did you mean 'rounds'"),
    "value": (lambda out: consilia.run("fedavg", rounds=0, out=out), "rounds: .*greater than or equal to 1"),
    "type": (lambda out: consilia.run("fedavg", settings={"rounds": out}, out=out), "settings: expected values as in"),
    "engine": (lambda out: consilia.run("fedavg", engine="simm", out=out), "no engine 'simm'; did you mean 'sim'"),
    "data": (lambda out: consilia.run("fedavg", data="wisconsn", out=out), "did you mean 'wisconsin'"),
    "study": (lambda out: consilia.compare({"metods": {}}, out=out), "metods: unknown key"),
    "baseline": (lambda out: consilia.compare(only=["majorty"], out=out), "did you mean 'majority'"),
    "left out": (lambda out: consilia.compare(leave_out="hospital-9", out=out), "hospital-9"),
    "cases": (lambda out: consilia.compare(train_cases=1.5, out=out), "whole number of cases, or a fraction"),
    "split": (lambda out: consilia.evaluate("m", site="s", split="train"), "one of test, all, got 'train'"),
    "folder": (lambda out: consilia.evaluate("m", site="s", out=out.parent), "exists: choose another --out"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_the_command_lines_words_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    call, text = WRONG[case]
    with pytest.raises(ConfigError, match=text):
        call(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model file at"):
        consilia.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("not a model")
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        consilia.load(tmp_path / "text.safetensors")


GUIDE = REPOSITORY / "docs" / "python.md"


@pytest.mark.slow
def test_the_page_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        exec(block, names)
    assert set(names["frame"]["method"]) == {"fedprox", "majority"}
    assert names["run"].record.run.rounds_done == 3
    assert (tmp_path / "evaluation" / "report.html").is_file()
    assert len(names["answers"].to_frame()) == len(pd.read_csv("runs/one/sites/hospital-2/cases.csv"))
