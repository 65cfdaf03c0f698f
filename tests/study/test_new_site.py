"""Labelled cases of a site that was left out: which, what is made of them, and what it is worth."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from consilia.core.errors import ConfigError
from consilia.core.tensor_files import read_tensors
from consilia.data.dataset import SiteData, empty_split
from consilia.data.loading import load_site
from consilia.data.site import load_site_config
from consilia.evaluation.paired import draw
from consilia.federation.config import run_config
from consilia.federation.saved_predictions import digests
from consilia.methods.client import ClientContext, Round
from consilia.methods.registry import make_method
from consilia.record.files import load_record
from consilia.record.study_result import load_result
from consilia.report.study_page import study_page
from consilia.simulation.federation import load_federation
from consilia.study import adaptation, running
from consilia.study.new_site import NewSite, divided, labelled
from consilia.study.new_site_scores import new_site_scores
from consilia.study.outputs import write_tables
from consilia.study.running import run_study
from consilia.study.study import Study
from tests.study.small_study import federation, study, table

ASKED = {"cases": [0, 4, 30, "all"], "draws": 3}
METHODS: Mapping[str, Mapping[str, object]] = {
    "fedavg": {"method": "fedavg"},
    "fedper": {"method": "fedper"},
    "fedntd": {"method": "fedntd"},
    "scaffold": {"method": "scaffold", "training": {"momentum": 0, "weight_decay": 0}},
}


@dataclass(frozen=True)
class Done:
    """A study in which a and b were left out in turn; a has 48 cases to label, b has 24."""

    study: Study
    folder: Path

    def run(self, label: str, site: str = "a") -> Path:
        """The folder of a run."""
        return self.folder / f"without-{site}" / f"{label}-seed0"

    def predictions(self, label: str, version: str, site: str = "a") -> pd.DataFrame:
        """At the site that was left out."""
        run_id = load_record(self.run(label, site) / "result.json").run.id
        settings = load_site_config(self.folder / f"without-{site}" / "sites" / site / "site.yaml")
        file = settings.state_dir / "runs" / run_id / f"predictions-{version}.csv"
        return pd.read_csv(file, dtype={"patient": str, "case": str, "cases": str})

    def steps(self, label: str, site: str = "a") -> dict[object, dict[str, object]]:
        """What was done by number of cases."""
        found = json.loads((self.run(label, site) / "new-site" / "new-site.json").read_text())
        return {step["cases"]: step for step in found["steps"]}


@pytest.fixture(scope="module", autouse=True)
def _no_pages() -> Iterator[None]:
    """The tables of a study without its pages, which take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "write_report", lambda *arguments: None)
        patch.setattr(running, "write_outputs", write_tables)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("new-site")
    data = federation(folder, {"a": table("a", 60), "b": table("b", 30), "c": table("c", 40)})
    asked = study(data, METHODS, leave_out=("a", "b"), new_site=ASKED, baselines=("centralised", "majority"))
    run_study(asked, folder / "study", jobs=1)
    return Done(asked, folder / "study")


# ---- which cases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cases", [[], [5, 5], [-1], [2.5], ["some"], [True], 5])
def test_other_numbers_of_cases_are_refused(cases: object) -> None:
    with pytest.raises(ValueError, match=r"different whole numbers of cases from 0 on, or all"):
        NewSite.model_validate({"cases": cases})


def test_a_study_without_a_site_left_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give leave_out in the study, or --leave-out"):
        run_study(study("wisconsin", new_site=ASKED), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_draws_are_seeded_nested_and_have_every_class() -> None:
    classes = np.array([0] * 57 + [1] * 2 + [2])
    for number in range(20):
        few, more = (labelled(classes, count, number, "a") for count in (3, 20))
        assert set(classes[few]) == {0, 1, 2}
        assert set(few) < set(more)
        assert len(set(more)) == 20
        assert few.tolist() == labelled(classes, 3, number, "a").tolist()
    assert len({tuple(labelled(classes, 20, number, "a")) for number in range(20)}) == 20
    assert labelled(classes, 5, 0, "a").tolist() != labelled(classes, 5, 0, "b").tolist()
    assert labelled(classes, "all", 3, "a").tolist() == list(range(60))
    assert len(labelled(classes, 2, 0, "a")) == 2


def test_the_fixed_test_is_that_of_the_site_when_it_trains(done: Done, tmp_path: Path) -> None:
    assert isinstance(done.study.data, str)
    training = load_site(load_federation(done.study.data, tmp_path)["a"], "d")
    site = done.folder / "without-a" / "sites" / "a" / "site.yaml"
    whole = load_site(site, "d").test
    pool, tests = divided(load_site_config(site), "d", whole)
    assert sorted(whole.case_ids[place] for place in tests) == sorted(training.test.case_ids)
    assert sorted([*pool, *tests]) == list(range(60))
    assert set(done.predictions("fedavg", "new-site")["case"]) == set(digests(training.test.case_ids))


# ---- what is made of them --------------------------------------------------------------------------------------------


def test_of_no_case_the_predictions_are_those_of_the_run(done: Done) -> None:
    for label in ("fedavg", "centralised"):
        found = done.predictions(label, "new-site").query("cases == '0'").set_index("case")["p1"]
        whole = done.predictions(label, "last").query("model == 'global'").set_index("case")["p1"]
        assert found.to_dict() == pytest.approx(whole[found.index].to_dict(), abs=1e-6)


@pytest.mark.parametrize("label", ["fedavg", "centralised"])
def test_all_cases_give_what_a_plain_personalize_gives(done: Done, label: str) -> None:
    record = load_record(done.run(label) / "result.json")
    config = run_config(record.config, source="record")
    site = done.folder / "without-a" / "sites" / "a" / "site.yaml"
    whole = load_site(site, "d").test
    pool, tests = divided(load_site_config(site), "d", whole)
    own = load_site(site, "d").dataset()
    parts = {"train": whole.take(torch.tensor(pool)), "test": whole.take(torch.tensor(tests))}
    data = SiteData("a", {"d": type(own)(own.class_names, parts["train"], empty_split(whole.inputs), parts["test"])})
    model = config.model.build(seed=0, allowed=(config.model.class_,), folders={})
    client = make_method(config.method).client(ClientContext(model, data, config.training, 0))
    state, _ = read_tensors(done.run(label) / "global-last.safetensors")
    client.load(client.personalize(Round(config.rounds + 1, state)))
    logits = client.predict(parts["test"])["logits"]
    expected = dict(zip(digests(parts["test"].case_ids), logits.softmax(1)[:, 1].tolist(), strict=True))
    found = done.predictions(label, "new-site").query("cases == 'all'").set_index("case")["p1"].to_dict()
    assert found == pytest.approx(expected, abs=1e-6)


def test_every_draw_begins_anew(done: Done) -> None:
    by_draw = (
        done.predictions("fedavg", "new-site").query("cases == '4'").pivot(index="case", columns="draw", values="p1")
    )
    assert list(by_draw) == [0, 1, 2]
    assert (by_draw.std(axis=1) > 0).all()
    one = done.steps("fedavg")[4]
    assert (one["labelled"], one["draws"]) == (4, 3)
    assert done.steps("fedavg")["all"]["labelled"] == 48
    assert done.steps("fedavg")["all"]["draws"] == done.steps("fedavg")[0]["draws"] == 1


def test_what_cannot_be_is_a_row_that_says_so(done: Done) -> None:
    assert {step["reason"] for step in done.steps("majority").values()} == {
        "majority has no network that a site could train on"
    }
    fedper = {cases: step["reason"] for cases, step in done.steps("fedper").items()}
    assert "every site has a head of its own" in str(fedper.pop(0))
    assert set(fedper.values()) == {""}
    assert done.steps("fedavg", "b")[30]["reason"] == "the site has 24 cases to label"
    assert {step["reason"] for step in done.steps("scaffold").values()} == {""}
    text = (done.folder / "tables.md").read_text()
    assert "majority has no network that a site could train on" in text
    assert "30: the site has 24 cases to label" in text
    assert "same as: fedavg: " in text
    scores = load_result(done.folder / "study.json").new_site
    assert {one.cases for one in scores if not one.site and one.method == "fedavg"} == {"0", "4", "all"}


def test_a_server_that_cannot_be_opened_is_a_row_and_ends_no_study(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(*arguments: object) -> object:
        raise ValueError("odd server")

    monkeypatch.setattr(adaptation, "open_server", odd)
    shutil.copytree(done.run("scaffold"), tmp_path / "run")
    config = run_config(load_record(tmp_path / "run" / "result.json").config, source="record")
    names = {name: done.folder / "without-a" / "sites" / name / "site.yaml" for name in "abc"}
    folder = tmp_path / "run" / "new-site"
    found = adaptation.adapt(config, names, folder, None, "a", NewSite.model_validate(ASKED))
    assert len(found.steps) == 4
    assert all("odd server" in step.reason for step in found.steps)


def test_the_page_draws_it_and_nothing_is_made_twice(done: Done) -> None:
    assert 'data-name="federation-labelled-cases-of-a-new-site-auroc"' in study_page(
        load_result(done.folder / "study.json")
    )
    before = {path: path.stat().st_mtime_ns for path in done.folder.rglob("new-site.json")}
    tables = (done.folder / "new-site.csv").read_bytes()
    assert len(before) == 10
    last = done.run("fedavg") / "new-site" / "new-site.json"
    last.unlink()
    run_study(done.study, done.folder, jobs=1)
    assert {path for path, time in before.items() if path.stat().st_mtime_ns != time} == {last}
    assert (done.folder / "new-site.csv").read_bytes() == tables


@pytest.mark.slow
def test_two_jobs_give_the_same_bytes_and_a_spent_budget_leaves_rows(done: Done, tmp_path: Path) -> None:
    asked = done.study.changed(methods={"fedavg": {"method": "fedavg"}}, baselines=(), leave_out="b", seeds=(0, 1))
    for jobs in (1, 2):
        run_study(asked, tmp_path / f"{jobs}", jobs=jobs)
    assert (tmp_path / "1" / "new-site.csv").read_bytes() == (tmp_path / "2" / "new-site.csv").read_bytes()
    for file in (tmp_path / "1").rglob("new-site.json"):
        file.unlink()
    run_study(asked.changed(budget=1e-9), tmp_path / "1", jobs=1)
    rows = pd.read_csv(tmp_path / "1" / "new-site.csv")
    assert set(rows["reason"]) == {"not run: the budget is spent"}
    assert len(load_result(tmp_path / "1" / "study.json").scores) > 0


# ---- what they are worth ---------------------------------------------------------------------------------------------


def test_mean_and_interval_are_those_of_a_plain_loop() -> None:
    random = np.random.default_rng(3)
    people = pd.DataFrame({"patient": [f"p{i}" for i in range(30)], "label": (np.arange(30) < 12).astype(int)})
    frames = []
    for seed in (0, 5):
        for number in range(3):
            score = random.normal(size=30) + 1.2 * people["label"]
            p1 = 1 / (1 + np.exp(-score))
            frames.append(people.assign(seed=seed, draw=number, case=people["patient"], p0=1 - p1, p1=p1))
    run = {"data": "heart", "option": "", "site": "a", "method": "fed", "fold": 0, "cases": "5"}
    rows = pd.concat(frames, ignore_index=True).assign(**run, labelled=5, reason="")
    found = {one.metric: one for one in new_site_scores(rows, draws=60)}
    purpose = "heart//new site"
    names = sorted(people["patient"])
    drawn = draw(["a"] * 30, 2, seed=0, purpose=purpose, draws=60)
    times = draw(["a, labelled cases"] * 3, 1, seed=0, purpose=purpose, draws=60).patients
    expected = []
    for place in range(61):
        again = [name for name, count in zip(names, drawn.patients[place], strict=True) for _ in range(count)]
        values, weights = [], []
        for s, seed in enumerate((0, 5)):
            for number in range(3):
                own = rows[(rows["seed"] == seed) & (rows["draw"] == number)].set_index("patient").loc[again]
                values.append(roc_auc_score(own["label"], own["p1"]))
                weights.append(int(drawn.seeds[place, s]) * int(times[place, number]))
        expected.append(np.average(values, weights=weights))
    auroc = found["auroc"]
    assert auroc.value == pytest.approx(expected[0])
    assert [auroc.low, auroc.high] == pytest.approx(np.quantile(expected[1:], [0.025, 0.975]))
    assert found["accuracy"].value == pytest.approx(((rows["p1"] > 0.5) == (rows["label"] == 1)).mean())
    assert (auroc.patients, auroc.of_each, auroc.draws, auroc.runs, auroc.labelled) == (30, (18, 12), 3, 2, 5)


def test_a_fixed_test_with_few_of_a_class_is_shown_and_in_no_mean_of_auroc() -> None:
    random = np.random.default_rng(4)
    frames = []
    for site, cases, ill in (("a", 30, 12), ("b", 40, 15), ("few", 30, 3)):
        score = random.normal(size=cases) + 0.5 * (np.arange(cases) < ill)
        p1 = 1 / (1 + np.exp(-score))
        names = [f"{site}{i}" for i in range(cases)]
        labels = (np.arange(cases) < ill).astype(int)
        frames.append(pd.DataFrame({"site": site, "patient": names, "case": names, "label": labels, "p1": p1}))
    rows = pd.concat(frames, ignore_index=True)
    run = {"data": "heart", "option": "", "method": "fed", "fold": 0, "seed": 0, "draw": 0, "cases": "0"}
    scores = new_site_scores(rows.assign(**run, p0=1 - rows["p1"], labelled=0, reason=""), draws=20)
    found = {(one.metric, one.site): one for one in scores}
    areas = {site: roc_auc_score(own["label"], own["p1"]) for site, own in rows.groupby("site")}
    assert found["auroc", "few"].value == pytest.approx(areas["few"])
    assert found["auroc", ""].value == pytest.approx((areas["a"] + areas["b"]) / 2)
    assert found["auroc", ""].patients == 70
    right = [((own["p1"] > 0.5) == own["label"]).mean() for _, own in rows.groupby("site")]
    assert found["accuracy", ""].value == pytest.approx(np.mean(right))
