"""The record's schema: what is written is what is read, and what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from consilia.core.errors import ConfigError
from consilia.record.files import load_record, save_record
from consilia.record.schema import AtThreshold, Curves, Metrics, Record, SegmentationMetrics, SiteMetrics
from tests.report.factory import make_record, make_segmentation_record, segmentation_metrics


@pytest.fixture
def content() -> dict[str, Any]:
    return make_record(rounds=2).plain()


def refuse(content: Any, folder: Path) -> str:
    path = folder / "result.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_record(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message


def test_round_trip_keeps_everything_and_uses_the_json_names(tmp_path: Path) -> None:
    record = make_record()
    save_record(record, tmp_path / "result.json")
    assert load_record(tmp_path / "result.json") == record
    written = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert written["schema"] == "consilia.result/2"
    assert "global" in written["final"]["last"]
    assert json.loads(record.model_dump_json()) == written


def test_missing_file_and_no_json_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: cannot be read: No such file"):
        load_record(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"schema": ')
    with pytest.raises(ConfigError, match=r"half\.json: expected JSON"):
        load_record(tmp_path / "half.json")


@pytest.mark.parametrize("schema", ["consilia.result/1", None])
def test_another_schema_is_refused(content: dict[str, Any], tmp_path: Path, schema: str | None) -> None:
    message = refuse({**content, "schema": schema}, tmp_path)
    assert f"key schema: expected 'consilia.result/2', got {schema!r}" in message


def test_a_list_is_no_record(tmp_path: Path) -> None:
    assert "key schema" in refuse([], tmp_path)


def test_a_wrong_value_is_named_with_its_key(content: dict[str, Any], tmp_path: Path) -> None:
    content["rounds"][1]["contributions"]["Ashford"] = {
        "weight": -0.5,
        "samples": 3,
        "fields": {},
        "clipped": None,
    }
    message = refuse(content, tmp_path)
    assert "rounds.1.contributions.Ashford.weight" in message
    assert "got -0.5" in message


def test_unknown_and_missing_keys_are_named(content: dict[str, Any], tmp_path: Path) -> None:
    content["run"]["patient"] = "x"
    del content["run"]["seed"]
    message = refuse(content, tmp_path)
    assert "run.seed: Field required" in message
    assert "run.patient: unknown key" in message


def test_a_site_that_is_not_listed_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    content["rounds"][0]["missing"] = ["Nowhere"]
    assert "sites must list every site that is used, but lacks Nowhere" in refuse(content, tmp_path)


def test_nan_cannot_get_in() -> None:
    values = make_record().plain()["final"]["last"]["global"]["Ashford"]["test"]
    with pytest.raises(ValidationError, match="finite number"):
        Metrics.model_validate({**values, "loss": float("nan")})


def test_fields_can_be_given_by_their_python_names() -> None:
    record = make_record()
    last = record.final["last"]
    same = type(last)(
        version=last.version, sha256=last.sha256, global_=last.global_, personal=last.personal, variants={}
    )
    assert same == last
    assert Record.model_validate(record.plain()) == record


def test_segmentation_round_trip(tmp_path: Path) -> None:
    record = make_segmentation_record()
    save_record(record, tmp_path / "result.json")
    assert load_record(tmp_path / "result.json") == record
    metrics = record.final["last"].global_["Ashford"].test
    assert isinstance(metrics, SegmentationMetrics)
    assert metrics.dice == metrics.prompts["box"].dice


def test_without_the_box_the_first_setting_counts() -> None:
    values = segmentation_metrics("Ashford", 0.8, settings=("jitter", "image"))
    assert SegmentationMetrics.model_validate(values).dice == 0.75


ENDS = {"se": 0.1, "low": 0.2, "high": 0.3}


@pytest.mark.parametrize(
    ("changes", "metrics", "message"),
    [
        ({"empty": 199}, {"missed": 2}, "199 empty and 2 missed of 200 cases"),
        ({}, {"dice": 0.5, "iou": 0.6}, "disagree"),  # IoU above Dice
        ({}, {"dice": 0.8, "iou": 0.3}, "disagree"),  # IoU below half of Dice
        ({}, {"dice": None}, "disagree"),
        ({"empty": 200}, {"missed": 0}, "disagree"),  # a mean over no case
        ({}, {"missed": 150, "dice": 0.4, "iou": 0.3}, "disagree"),  # 50 of 200 found gives at most 0.25
        ({}, {"missed": 200, "dice": 0.0, "iou": 0.0, "hd95": 3.0}, "disagree"),
        ({}, {"hd95": -1.0}, "greater than or equal to 0"),
        ({"unit": "cm"}, {}, "'px' or 'mm'"),
        ({"prompts": {}}, {}, "at least 1"),
        ({"intervals": {"image.dice": ENDS}}, {}, "intervals.image.dice: expected one of box before the dot"),
        ({"intervals": {"box.dice": {**ENDS, "high": 1.2}}}, {}, "intervals.box.dice: expected at most 1"),
        ({"intervals": {"box.hd95": {**ENDS, "low": 2.0}}}, {}, "low 2.0 is above high 0.3"),
        ({"patients": 201}, {}, "201 of 200 cases"),
    ],
)
def test_segmentation_metrics_that_cannot_be_are_refused(
    changes: dict[str, Any], metrics: dict[str, Any], message: str
) -> None:
    values = {**segmentation_metrics("Ashford", 0.8, settings=("box",)), **changes}
    if values["prompts"]:
        values["prompts"]["box"].update(metrics)
    with pytest.raises(ValidationError, match=message):
        SegmentationMetrics.model_validate(values)


def test_all_missed_or_all_empty_is_possible() -> None:
    metrics = {"dice": 0.0, "iou": 0.0, "hd95": None, "missed": 3}
    SegmentationMetrics.model_validate({"count": 3, "empty": 0, "unit": "px", "prompts": {"image": metrics}})
    metrics = {"dice": None, "iou": None, "hd95": None, "missed": 0}
    SegmentationMetrics.model_validate({"count": 3, "empty": 3, "unit": "px", "prompts": {"image": metrics}})


def test_both_splits_are_of_one_task_and_that_of_the_run(content: dict[str, Any], tmp_path: Path) -> None:
    segmented = segmentation_metrics("Ashford", 0.8)
    classified = content["final"]["last"]["global"]["Ashford"]["test"]
    with pytest.raises(ValidationError, match="one task for both splits expected, got classification and segm"):
        SiteMetrics.model_validate({"validation": classified, "test": segmented})
    content["run"]["task"] = "segmentation"
    assert "run.task is segmentation, but site" in refuse(content, tmp_path)


def test_an_error_names_the_key_of_the_task_that_was_meant(content: dict[str, Any], tmp_path: Path) -> None:
    content["evaluations"][0]["sites"]["Ashford"]["test"]["auroc"] = 1.5
    message = refuse(content, tmp_path)
    assert "evaluations.0.sites.Ashford.test.classification.auroc" in message
    assert "more)" not in message


def test_something_is_exchanged(content: dict[str, Any], tmp_path: Path) -> None:
    content["exchange"] = {"parameters": 0, "all_parameters": 9, "dtype": "float16"}
    assert "exchange.parameters" in refuse(content, tmp_path)


def test_the_ablation_is_of_listed_sites(content: dict[str, Any], tmp_path: Path) -> None:
    content["final"]["last"]["variants"] = {"plain": {"Nowhere": content["final"]["last"]["global"]["Ashford"]}}
    assert "lacks Nowhere" in refuse(content, tmp_path)


def detailed(**changes: Any) -> dict[str, Any]:
    """Metrics of a final evaluation: ten cases of eight patients, four of class 1."""
    decided = {"threshold": 0.4, "accuracy": 0.7, "sensitivity": 0.75, "specificity": 4 / 6, "ppv": 0.6, "npv": 0.8}
    empty = {"count": 0, "confidence": None, "observed": None}
    bins = [{"count": 6, "confidence": 0.04, "observed": 0.2}, *[empty] * 8]
    values = {
        "count": 10,
        "correct": 7,
        "accuracy": 0.7,
        "balanced_accuracy": 0.7,
        "auroc": 0.8,
        "loss": 0.5,
        "patients": 8,
        "positives": 4,
        "auprc": 0.75,
        "brier": 0.0,
        "ece": 0.1,
        "operating": decided,
        "at_half": {**decided, "threshold": 0.5},
        "intervals": {"operating.sensitivity": {"se": 0.2, "low": 0.3, "high": 1.0}},
        "curves": {
            "roc": [0.05 * step for step in range(21)],
            "reliability": [*bins, {"count": 4, "confidence": 0.95, "observed": 1.0}],
        },
    }
    return values | changes


def test_what_only_a_final_evaluation_has_is_kept_and_missing_elsewhere(content: dict[str, Any]) -> None:
    metrics = Metrics.model_validate(detailed())
    assert metrics.operating is not None
    assert metrics.operating.f1 is None
    assert metrics.intervals["operating.sensitivity"].high == 1.0
    written = json.loads(metrics.model_dump_json())
    assert Metrics.model_validate(written) == metrics
    assert written["brier"] == 0.0, "zero is a value"
    plain = content["evaluations"][0]["sites"]["Ashford"]["test"]
    assert not {"operating", "intervals", "curves", "threshold", "brier"} & plain.keys()
    content["evaluations"][0]["sites"]["Ashford"]["test"] = {**plain, "patients": 150, "threshold": 0.0}
    kept = Record.model_validate(content).plain()["evaluations"][0]["sites"]["Ashford"]["test"]
    assert (kept["patients"], kept["threshold"]) == (150, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 1.5}, "less than or equal to 1"),
        ({"threshold": -0.1}, "greater than or equal to 0"),
        ({"threshold": float("nan")}, "finite number"),
        ({"positives": 11}, "positives: 11 of 10 cases"),
        ({"patients": 11}, "patients: 11 of 10 cases"),
        ({"intervals": {"patient-17": {"se": 0.1, "low": 0.1, "high": 0.2}}}, "patient-17"),
        ({"intervals": {"auroc": {"se": 0.1, "low": 0.3, "high": 0.2}}}, "low 0.3 is above high 0.2"),
        ({"intervals": {"auroc": {"se": 0.1, "low": -0.3, "high": 0.2}}}, "greater than or equal to 0"),
        ({"curves": {"roc": [0.0, 1.0], "reliability": detailed()["curves"]["reliability"]}}, "2 points, expected 21"),
        ({"curves": {"roc": [], "reliability": []}}, "at least 10 items"),
        ({"count": 9, "correct": 7, "accuracy": 7 / 9}, "curves.reliability: 10 of 9 cases"),
    ],
)
def test_metrics_of_a_final_evaluation_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Metrics.model_validate(detailed(**changes))


def test_a_version_has_its_threshold(content: dict[str, Any]) -> None:
    del content["final"]["last"]["threshold"]
    assert Record.model_validate(content).final["last"].threshold is None, "an older record has none"
    content["final"]["last"]["threshold"] = 0.35
    assert Record.model_validate(content).final["last"].threshold == 0.35
    assert Curves.model_validate(detailed()["curves"]).roc[-1] == 1.0
    assert AtThreshold().threshold is None


def test_what_only_a_final_evaluation_of_a_segmentation_has_is_left_out_elsewhere() -> None:
    values = segmentation_metrics("Ashford", 0.8)
    final = {**values, "patients": 20, "intervals": {"box.hd95": {"se": 2.0, "low": 3.0, "high": 9.0}}}
    found = SiteMetrics.model_validate({"validation": values, "test": final})
    assert found.model_dump(mode="json") == {"validation": values, "test": final}
    assert found.of_a_round().model_dump(mode="json") == {"validation": values, "test": values}
