"""The summary of a small segmentation whose every metric can be worked out by hand, and convergence and ablation."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from consilia.core.errors import ConfigError
from consilia.evaluation.compare import comparison_table, to_markdown
from consilia.evaluation.rounds import Value, rounds_to_within
from consilia.evaluation.summary import ExchangeCost, ModelSummary, VariantSummary, series, summarise
from tests.evaluation.records import whole

CONTRIBUTION = {"weight": 0.5, "samples": 1, "clipped": None}


def part(box: float | None, image: float | None = None, hd95: float | None = None, unit: str = "px") -> dict[str, Any]:
    prompts = {"box": {"dice": box, "iou": None if box is None else box / 2, "hd95": hd95, "missed": 0}}
    if image is not None:
        prompts["image"] = {"dice": image, "iou": image / 2, "hd95": None, "missed": 1}
    return {"validation": None, "test": {"count": 9, "empty": 9 * (box is None), "unit": unit, "prompts": prompts}}


def round_of(number: int, ratios: dict[str, float | None]) -> dict[str, Any]:
    return {
        "round": number,
        "participants": list(ratios),
        "contributions": {
            site: {**CONTRIBUTION, "fields": {} if ratio is None else {"diversity": ratio}}
            for site, ratio in ratios.items()
        },
    }


@pytest.fixture
def record() -> dict[str, Any]:
    return {
        "run": {"id": "x", "task": "segmentation", "label": "X", "method": "m", "seed": 1, "seconds": 42.0},
        "sites": {"a": {"test_only": False}, "b": {"test_only": False}},
        "fields": {"diversity": {"heading": "Diversity", "meaning": "made up"}},
        "rounds": [round_of(1, {"a": 0.1, "b": 0.3}), round_of(2, {"a": 0.6, "b": None})],
        "evaluations": [
            {"version": 0, "model": "global", "sites": {"a": part(0.1), "b": part(0.2)}},
            {"version": 1, "model": "global", "sites": {"a": part(0.5, 0.2), "b": part(0.7, 0.4)}},
            {"version": 1, "model": "personal", "sites": {"a": part(0.6), "b": part(0.9)}},
            {"version": 2, "model": "global", "sites": {"a": part(0.8), "b": part(0.9)}},
        ],
        "final": {
            "last": {
                "version": 2,
                "sha256": "",
                "global": {"a": part(0.8, 0.4, hd95=3.0), "b": part(0.9, 0.2, hd95=5.0)},
                "personal": {"a": part(0.7), "b": part(0.95)},
                "variants": {"plain": {"a": part(0.7, 0.4)}},
            }
        },
        "exchange": {"parameters": 100, "all_parameters": 1000, "dtype": "float16"},
    }


def last_of(record: dict[str, Any]) -> ModelSummary:
    last = summarise(whole(record)).last
    assert last is not None
    return last


def test_final_metrics_are_means_over_sites(record: dict[str, Any]) -> None:
    last = last_of(record)
    assert last.numbers["global_dice_box"] == pytest.approx(0.85)
    assert last.numbers["global_dice_image"] == pytest.approx(0.3)
    assert last.numbers["global_dice_jitter"] is None
    assert last.numbers["global_iou_box"] == pytest.approx(0.425)
    assert (last.numbers["global_hd95_box"], last.unit) == (4.0, "px")
    assert last.numbers["global_hd95_image"] is None
    assert last.numbers["personal_dice_box"] == pytest.approx(0.825)
    assert last.metrics["worst_personal_dice"] == Value(0.7, "a")
    assert last.metrics["worst_global_dice"] == Value(0.8, "a")
    assert last.numbers["balance"] == pytest.approx((0.85 + 0.825) / 2)


def test_hd95_of_different_units_has_no_mean(record: dict[str, Any]) -> None:
    record["final"]["last"]["global"]["b"]["test"]["unit"] = "mm"
    last = last_of(record)
    assert last.numbers["global_hd95_box"] is None
    assert last.unit == "mixed"
    assert last.numbers["global_dice_box"] == pytest.approx(0.85)


def test_a_site_without_a_defined_figure_is_left_out(record: dict[str, Any]) -> None:
    record["final"]["last"]["global"]["a"] = part(None)
    last = last_of(record)
    assert last.numbers["global_dice_box"] == 0.9
    assert last.metrics["worst_global_dice"] == Value(0.9, "b")


def test_over_rounds(record: dict[str, Any]) -> None:
    over_rounds = summarise(whole(record)).over_rounds
    assert over_rounds.versions == 2
    metrics = over_rounds.metrics
    assert metrics["global_dice"] == pytest.approx((0.6 + 0.85) / 2)
    assert metrics["personal_dice"] == pytest.approx(0.75)
    assert metrics["worst_dice"] == 0.6
    assert metrics["rounds_to_within_1_percent"] == 2
    every = series(whole(record))
    assert list(every["global_dice"]) == [0, 1, 2]
    assert every["global_dice_image"][1] == pytest.approx(0.3)


def test_reports_and_exchange(record: dict[str, Any]) -> None:
    summary = summarise(whole(record))
    assert summary.first_reports == {"diversity": pytest.approx(0.2)}
    assert summary.last_reports == {"diversity": 0.6}
    assert summary.costs.exchange == ExchangeCost(parameters=100, all_parameters=1000, floor=200, full=4000)
    json.dumps(asdict(summary), allow_nan=False)


def test_the_ablation_is_compared_on_its_own_sites(record: dict[str, Any]) -> None:
    # Site b has no ablation, so its 0.9 plays no part: 0.7 against 0.8.
    found = last_of(record).variants["plain"]
    assert found.sites == 1
    assert found.metrics["dice_box"] == 0.7
    assert found.differences["dice_box"] == pytest.approx(-0.1)
    assert found.differences["dice_image"] == 0.0
    assert found.metrics["dice_jitter"] is None
    record["final"]["last"]["variants"] = {}
    assert last_of(record).variants == {}


def test_the_ablation_of_a_classification() -> None:
    def metrics(correct: int, count: int, auroc: float | None) -> dict[str, Any]:
        accuracy = {"accuracy": correct / count, "balanced_accuracy": 0.5, "auroc": auroc, "loss": None}
        return {"validation": None, "test": {"count": count, "correct": correct, **accuracy}}

    chosen = {
        "version": 1,
        "sha256": "",
        "global": {"a": metrics(8, 10, 0.9), "b": metrics(15, 30, None), "c": metrics(1, 10, 0.2)},
        "personal": {},
        "variants": {"plain": {"a": metrics(7, 10, 0.8), "b": metrics(18, 30, None)}},
    }
    record = {"sites": {site: {"test_only": site == "c"} for site in "abc"}, "final": {"last": chosen}}
    assert last_of(record).variants["plain"] == VariantSummary(
        sites=2,
        metrics={"accuracy": 25 / 40, "auroc": 0.8},
        differences=pytest.approx({"accuracy": 2 / 40, "auroc": -0.1}),
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({0: 0.5, 1: 0.89, 2: 0.91, 3: 0.90}, 1),  # 0.01 away is still within
        ({1: 0.90, 2: 0.80, 3: 0.90, 4: 0.905}, 3),  # in, out, and in again
        ({1: 0.80, 2: 0.90}, 2),
        ({1: 0.90, 2: None, 3: 0.90}, 1),
        ({1: 0.90}, None),
        ({}, None),
    ],
)
def test_rounds_to_within(values: dict[int, float | None], expected: int | None) -> None:
    assert rounds_to_within(values) == expected


def test_comparison_of_segmentations(record: dict[str, Any]) -> None:
    second = {**record, "run": {**record["run"], "seed": 2}}
    second["final"] = {"last": {**record["final"]["last"], "global": {"a": part(0.89, 0.4)}}}
    rows = comparison_table([whole(record), whole(second)])
    assert rows[0].task == "segmentation"
    lines = to_markdown(rows).splitlines()
    assert lines[0].startswith("| | seeds | Dice, global, true box |")
    assert lines[2].startswith("| X | 2 | 0.870 ± 0.028 |")
    assert "| 4.00 (n = 1) |" in lines[2]


def test_runs_of_different_tasks_cannot_be_compared(record: dict[str, Any]) -> None:
    other = {"sites": record["sites"], "run": {**record["run"], "id": "y", "task": "classification"}}
    with pytest.raises(
        ConfigError, match="runs x and y cannot be compared: expected one task, got segmentation and cl"
    ):
        comparison_table([whole(record), whole(other)])
