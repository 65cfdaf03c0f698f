"""The threshold of a model: chosen on validation cases, averaged by the server, used in the final evaluation."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from consilia.core.errors import ConfigError
from consilia.data.limits import SiteLimits
from consilia.data.site import load_site_config
from consilia.evaluation.thresholds import mean_threshold
from consilia.federation.messages import Reply, Request
from consilia.federation.metric_release import releasable
from consilia.federation.release_fields import fields_of
from consilia.federation.requests import require_within
from consilia.federation.site import Site
from consilia.record.schema import Metrics, Record, SiteMetrics
from consilia.simulation.federation import load_federation
from tests.federation.support import Federation, initial_state, small, without_clocks

PLAIN = {"correct": 5, "accuracy": 0.5, "balanced_accuracy": 0.5, "auroc": None, "loss": None}


def judged(count: int, threshold: float | None) -> SiteMetrics:
    """A site of so many validation cases, half of which are right."""
    plain = {**PLAIN, "count": count, "correct": count // 2, "threshold": threshold}
    return SiteMetrics.model_validate({"validation": plain, "test": None})


@pytest.fixture(scope="module")
def record(tmp_path_factory, wisconsin_files) -> Record:
    return Federation(small(), wisconsin_files, tmp_path_factory.mktemp("run") / "run").run()


@pytest.fixture(scope="module")
def wisconsin_files(tmp_path_factory):
    return load_federation("wisconsin", tmp_path_factory.mktemp("sites") / "sites")


def test_the_mean_is_by_validation_cases() -> None:
    sites = {"a": judged(10, 0.2), "b": judged(30, 0.6), "c": judged(100, None)}
    sites["d"] = SiteMetrics(validation=None, test=None)
    assert mean_threshold(sites) == pytest.approx((10 * 0.2 + 30 * 0.6) / 40)
    assert mean_threshold({"c": judged(100, None)}) is None
    assert mean_threshold({}) is None


def test_a_final_model_is_judged_at_its_threshold_and_a_personal_one_at_its_own(record: Record) -> None:
    for chosen in record.final.values():
        assert chosen.threshold == mean_threshold(chosen.global_)
        assert chosen.threshold is not None
        for site, whole in chosen.global_.items():
            own = chosen.personal[site]
            for metrics in (whole, own):
                assert isinstance(metrics.test, Metrics)
                assert isinstance(metrics.validation, Metrics)
                assert metrics.test.operating is not None
                assert metrics.validation.operating is None
            assert whole.test.operating.threshold == chosen.threshold
            assert own.test.operating.threshold == (own.validation.threshold or 0.5)
            assert whole.test.at_half.accuracy == whole.test.accuracy
            assert "operating.sensitivity" in whole.test.intervals


def test_every_round_has_thresholds_and_nothing_else_of_the_end(record: Record) -> None:
    versions = [item for item in record.evaluations if item.model == "global"]
    assert [item.version for item in versions] == [0, 1, 2, 3]
    for item in versions[1:]:
        assert mean_threshold(item.sites) is not None
    last = versions[-1].sites["hospital-1"].test
    assert isinstance(last, Metrics)
    assert last.operating is last.curves is last.brier is last.patients is None
    assert last.intervals == {}
    assert last.auroc == record.final["last"].global_["hospital-1"].test.auroc


@pytest.mark.slow
def test_a_run_stopped_before_its_final_evaluation_ends_alike(record: Record, wisconsin_files, tmp_path) -> None:
    stopped = Federation(small(), wisconsin_files, tmp_path / "run")

    def stop(site: str, task, reply: Reply) -> Reply:
        if task.request.final:
            assert task.request.threshold == record.final["last"].threshold
            raise KeyboardInterrupt
        return reply

    stopped.bend = stop
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    again = Federation(small(), wisconsin_files, tmp_path / "run").run()
    assert without_clocks(again) == without_clocks(record)


def test_no_server_sends_what_is_no_probability_or_too_early() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Request(kind="evaluate", final=True, threshold=1.5)
    with pytest.raises(ValidationError, match="finite"):
        Request(kind="evaluate", final=True, threshold=float("nan"))
    with pytest.raises(ConfigError, match="has a threshold: only a final evaluation does"):
        require_within(Request(kind="evaluate", round=2, threshold=0.3), small(rounds=4, evaluate_every=2))


def test_the_last_version_may_be_evaluated_whatever_evaluate_every_is() -> None:
    config = small(rounds=5, evaluate_every=2, patience=2)
    for last in (5, 3):  # after all rounds, or after the round in which version 2 was no better
        require_within(Request(kind="evaluate", round=last), config)
    require_within(Request(kind="evaluate", round=3), small(evaluate_every=0))
    for settings in ({"rounds": 5, "evaluate_every": 2}, {"rounds": 6, "evaluate_every": 3, "patience": 1}):
        with pytest.raises(ConfigError, match=r"wants an evaluation after [35] rounds"):
            require_within(Request(kind="evaluate", round=3 if "patience" not in settings else 5), small(**settings))
    with pytest.raises(ConfigError, match="wants an evaluation after 5 rounds"):
        require_within(Request(kind="train", round=5, evaluate=True), small(rounds=6, evaluate_every=3))


def test_a_site_whose_validation_is_withheld_uses_no_threshold_of_it(wisconsin) -> None:
    settings = load_site_config(wisconsin["hospital-1"])
    data = Site(small(), settings).data
    fewest = {part: int(data.split(part).labels.bincount(minlength=2).min()) for part in ("validation", "test")}
    limits = settings.limits.model_copy(update={"min_cases_per_metric": fewest["test"]})
    node = Site(small(), settings.model_copy(update={"limits": limits}))
    node.answer(Request(kind="prepare"), None)
    reply = node.answer(Request(kind="personalize", round=3, final=True), initial_state(node.config))
    personal = json.loads(reply.content)["personal"]
    assert personal["validation"] is None
    assert personal["test"]["operating"]["threshold"] == 0.5


def test_what_leaves_is_rounded_and_small_bins_are_empty() -> None:
    limits = SiteLimits(round_metrics=2, min_cases_per_metric=10)
    bins = [{"count": 9, "confidence": 0.0512, "observed": 0.1111}, {"count": 991, "confidence": 0.1, "observed": 0.2}]
    full = {
        "count": 1000,
        "patients": 777,
        "positives": 205,
        "threshold": 0.001,
        "operating": {"threshold": 0.4567, "ppv": None, "sensitivity": 0.98765},
        "intervals": {"auroc": {"se": 0.01234, "low": 0.65432, "high": 0.76543}},
        "curves": {"roc": [0.123456, 1.0], "reliability": bins},
    }
    assert releasable(full, 10, limits) == {
        "count": 1000,
        "patients": 777,
        "positives": 200,
        "threshold": 0.01,
        "operating": {"threshold": 0.46, "ppv": None, "sensitivity": 0.99},
        "intervals": {"auroc": {"se": 0.01, "low": 0.65, "high": 0.77}},
        "curves": {
            "roc": [0.12, 1.0],
            "reliability": [
                {"count": 0, "confidence": None, "observed": None},
                {"count": 990, "confidence": 0.1, "observed": 0.2},
            ],
        },
    }
    assert releasable(full, 9, limits) is None
    assert releasable({"count": 20, "threshold": 0.9999}, 10, SiteLimits())["threshold"] == 0.999


def test_the_manifest_names_what_each_request_gets() -> None:
    fields = fields_of(small())
    assert fields["train"]["received.validation.threshold"] == "number"
    assert not any("operating" in path or "intervals" in path for path in fields["train"])
    personal = fields["personalize"]
    assert personal["personal.test.operating.sensitivity"] == "number"
    assert personal["received.test.curves.roc[]"] == "number"
    assert personal["received.test.curves.reliability[].count"] == "integer"
    (intervals,) = [path for path in personal if path.startswith("personal.test.intervals.") and path.endswith(".se")]
    assert "|at_half/npv|" in intervals
    assert not any(path.startswith("personal.validation.operating") for path in personal)


def test_the_manifest_of_a_segmentation_names_its_intervals() -> None:
    fields = fields_of(
        small("fedgpl", task="segmentation", model={"class": "consilia.models.prompted_sam.PromptedSam"})
    )
    assert not any("intervals" in path or "patients" in path or "hd95" in path for path in fields["train"])
    found = [path for path in fields["personalize"] if "intervals" in path or "patients" in path]
    assert {path.rpartition(".")[2] for path in found} == {"patients", "se", "low", "high"}
    assert {path.rpartition(".intervals.")[0] or path.rpartition(".")[0] for path in found} == {
        "received.test",
        "personal.test",
    }
    assert all("box/dice|" in path and "|jitter/missed" in path for path in found if "intervals" in path)


def test_intervals_of_a_segmentation_are_rounded_before_they_leave() -> None:
    full = {
        "count": 20,
        "empty": 0,
        "patients": 17,
        "prompts": {"box": {"dice": 0.87654, "hd95": 3.4567, "missed": 1}},
        "intervals": {"box.hd95": {"se": 1.23456, "low": 2.34567, "high": 12.3456}},
    }
    sent = releasable(full, 19, SiteLimits(round_metrics=2))
    assert sent is not None
    assert (sent["patients"], sent["intervals"]) == (17, {"box.hd95": {"se": 1.23, "low": 2.35, "high": 12.35}})
