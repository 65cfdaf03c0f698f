"""A run of survival from the data to the record, the release, the report and the saved model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from consilia.core.errors import RunFailed
from consilia.data.limits import SiteLimits
from consilia.data.loading import load_site
from consilia.evaluation.summary import series, summarise
from consilia.federation.config import run_config
from consilia.federation.inprocess import run_inprocess
from consilia.federation.metric_release import fewest_cases, releasable
from consilia.federation.model_evaluation import evaluate_model
from consilia.federation.release_fields import fields_of
from consilia.federation.saved_model import load_model
from consilia.federation.selection import validation_value
from consilia.federation.server_settings import own_server
from consilia.record.schema import SiteMetrics, SurvivalMetrics
from consilia.report.html import render_report
from consilia.report.tensorboard import scalars
from consilia.simulation.federation import load_federation


def config(**settings):
    values = {
        "method": "fedavg",
        "task": "survival",
        "dataset": "survival",
        "model": {"class": "consilia.models.mlp.MLP", "args": {"in_features": 7, "num_classes": 1, "hidden": []}},
        "rounds": 3,
        "training": {"local_epochs": 2, "batch_size": 16, "learning_rate": 0.05, "device": "cpu"},
    }
    return run_config({**values, **settings})


def run(config, sites, folder: Path):
    return run_inprocess(config, sites, folder, server=own_server(config, sites))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survival")
    sites = load_federation("synthetic-survival", folder / "sites")
    return run(config(), sites, folder / "run"), sites, folder / "run"


def plain_c_index(scores, labels) -> float:
    pairs = [
        (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
        for i in range(len(scores))
        for j in range(len(scores))
        if labels[i, 1] and (labels[i, 0] < labels[j, 0] or (labels[i, 0] == labels[j, 0] and not labels[j, 1]))
    ]
    return float(np.mean([float(pair) for pair in pairs]))


def plain_loss(scores, labels) -> float:
    scores = scores.double()
    terms = [
        float(torch.logsumexp(scores[labels[:, 0] >= labels[i, 0]], 0) - scores[i])
        for i in range(len(scores))
        if labels[i, 1]
    ]
    return sum(terms) / len(scores)


def log_hazards(path: Path, site: Path, split: str):
    data = load_site(site, "survival").split(split)
    model = load_model(path, site)
    with torch.no_grad():
        return model.network(data.inputs)[:, 0], data.labels


def test_metrics_of_the_record_are_those_of_plain_loops(finished) -> None:
    record, sites, folder = finished
    for name, path in sites.items():
        scores, labels = log_hazards(folder / "global-last.safetensors", path, "test")
        found = record.final["last"].global_[name].test
        assert isinstance(found, SurvivalMetrics)
        assert (found.count, found.events, found.patients) == (len(labels), int(labels[:, 1].sum()), len(labels))
        assert found.c_index == pytest.approx(plain_c_index(scores, labels))
        assert found.loss == pytest.approx(plain_loss(scores, labels))
        interval = found.intervals["c_index"]
        assert interval.low < found.c_index < interval.high
        assert 0 < interval.se < 0.2


def test_the_card_says_how_many_events_the_c_index_rests_on(finished) -> None:
    record, _, folder = finished
    page = (folder / "global-last.md").read_text()
    assert "| site | cases | patients | events | C-index |" in page
    test = record.final["last"].global_["survival-hospital-3"].test
    assert f"| survival-hospital-3 | {test.count} | {test.count} | {test.events} | {test.c_index:.3f} |" in page


def test_the_model_learns_and_means_are_of_sites(finished) -> None:
    record = finished[0]
    by_site = [site.test.c_index for site in record.final["last"].global_.values()]
    last = summarise(record).last.numbers
    assert last["global_c_index"] == pytest.approx(np.mean(by_site))
    assert last["worst_global_c_index"] == min(by_site)
    assert last["global_c_index"] > 0.65
    assert series(record)["global_c_index"][0] < last["global_c_index"]


def test_the_best_round_is_that_of_the_pooled_partial_likelihood(finished) -> None:
    """Each site is a stratum: the sum of their partial likelihoods over their cases."""
    record, sites, folder = finished
    whole, cases = 0.0, 0
    for path in sites.values():
        scores, labels = log_hazards(folder / "global-last.safetensors", path, "validation")
        whole, cases = whole + plain_loss(scores, labels) * len(labels), cases + len(labels)
    by_version = {one.version: one.sites for one in record.evaluations if one.model == "global"}
    assert validation_value(by_version[3], "loss") == pytest.approx(whole / cases)
    values = {version: validation_value(by_site, "loss") for version, by_site in by_version.items() if version}
    assert record.final["best"].version == min(values, key=values.get)


def test_sites_without_events_are_in_no_pooled_loss() -> None:
    def site(events: int, loss: float | None) -> SiteMetrics:
        found = {"count": 10, "events": events, "c_index": None if loss is None else 0.5, "loss": loss}
        return SiteMetrics.model_validate({"validation": found, "test": None})

    assert validation_value({"a": site(3, 1.0), "b": site(0, None), "c": site(4, 2.0)}, "loss") == 1.5
    assert validation_value({"b": site(0, None)}, "loss") is None


def test_what_leaves_a_site_is_counts_c_index_and_loss(finished) -> None:
    fields = fields_of(config())["train"]
    own = {path.partition("received.test.")[2] for path in fields if path.startswith("received.test.")}
    assert own == {"count", "events", "c_index", "loss"}
    final = {path.partition("personal.test.")[2] for path in fields_of(config())["personalize"]}
    assert {"intervals.c_index.se", "intervals.c_index.low", "intervals.c_index.high", "patients"} <= final


def test_metrics_are_withheld_by_events_and_rounded_like_others(finished) -> None:
    data = load_site(finished[1]["survival-hospital-1"], "survival").dataset()
    events = int(data.test.labels[:, 1].sum())
    assert fewest_cases(data, "test") == events
    metrics = {"count": 36, "events": events, "c_index": 0.71234, "loss": 1.23456, "patients": 36}
    limits = SiteLimits(min_cases_per_metric=events, round_metrics=3)
    assert releasable(metrics, events, limits) == {**metrics, "c_index": 0.712, "loss": 1.235}
    assert releasable(metrics, events, SiteLimits(min_cases_per_metric=events + 1)) is None


def test_the_run_report_has_no_time_of_an_event(finished) -> None:
    record = finished[0]
    page = render_report([record])
    assert "to rank patients by their hazard of one event (event)" in page
    assert "C-index per site" in page
    text = record.model_dump_json()
    assert "kaplan" not in text.lower()
    # The keys of all metrics: no list of anything is among them.
    keys = set(record.final["last"].global_["survival-hospital-1"].test.model_dump())
    assert keys == {"count", "events", "c_index", "loss", "patients", "intervals"}


def test_tensorboard_has_the_c_index(finished) -> None:
    tags = {tag for tag, _, _ in scalars(finished[0])}
    assert {"rounds/global_c_index", "rounds/validation_loss", "global_test_c_index/survival-hospital-1"} <= tags


def test_a_saved_model_predicts_log_hazards(finished, tmp_path) -> None:
    _, sites, folder = finished
    site = sites["survival-hospital-2"]
    lines = (site.parent / "cases.csv").read_text().splitlines()
    (tmp_path / "new.csv").write_text("\n".join(line.rsplit(",", 2)[0] for line in lines[:6]))  # without days, died
    found = load_model(folder / "global-last.safetensors", site).predict(tmp_path / "new.csv").to_frame()
    assert list(found) == ["case", "log_hazard"]
    scores = {
        case: float(score)
        for part in ("train", "validation", "test")
        for case, score in zip(
            load_site(site, "survival").split(part).case_ids,
            log_hazards(folder / "global-last.safetensors", site, part)[0],
            strict=True,
        )
    }
    assert found["log_hazard"].tolist() == pytest.approx([scores[case] for case in found["case"]], abs=1e-6)


def test_a_saved_model_is_evaluated_on_a_sites_cases(finished, tmp_path) -> None:
    record, sites, folder = finished
    found = evaluate_model(folder / "global-last.safetensors", sites["survival-hospital-3"])
    expected = record.final["last"].global_["survival-hospital-3"].test
    assert found.metrics["c_index"] == pytest.approx(expected.c_index)
    found.write(tmp_path / "out")
    table = (tmp_path / "out" / "report_predictions.csv").read_text().splitlines()
    assert table[0] == "case_id,patient,time,event,global_log_hazard,global_group"
    assert "Kaplan-Meier" in (tmp_path / "out" / "report.html").read_text()


def test_the_sites_own_report_is_written_at_the_site(finished) -> None:
    record, sites, _ = finished
    (report,) = (sites["survival-hospital-1"].parent / "state" / "runs" / record.run.id).glob("report-last.html")
    assert "Number at risk" in report.read_text()


def test_a_diverging_model_is_refused_and_named(tmp_path) -> None:
    sites = load_federation("synthetic-survival", tmp_path / "sites")
    wild = config(
        rounds=2,
        max_update_norm=None,
        training={"local_epochs": 5, "batch_size": 16, "learning_rate": 1e38, "momentum": 0.9, "device": "cpu"},
    )
    with pytest.raises(RunFailed, match=r"round 1 has 0 accepted updates, needs 2 \(survival-hospital-1: .* holds NaN"):
        run(wild, sites, tmp_path / "run")
