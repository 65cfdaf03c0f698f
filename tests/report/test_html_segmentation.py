"""Reports of segmentations: what is shown, kept apart, and left out; and Fed-GPL's own section."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from consilia.core.errors import ConfigError
from consilia.evaluation.summary import summarise
from consilia.record.metrics import show
from consilia.record.schema import Record
from consilia.report.html import render_report
from consilia.report.tensorboard import write_events
from tests.report.factory import make_record, make_segmentation_record
from tests.report.reading import assert_self_contained, metrics, read

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def record() -> Record:
    return make_segmentation_record()


@pytest.fixture(scope="module")
def run_html(record: Record) -> str:
    return render_report([record])


@pytest.fixture(scope="module")
def comparison_html() -> str:
    methods = (("fedgpl", "Fed-GPL", 0.0), ("fedavg", "Full fine-tuning", -0.05))
    return render_report(
        [
            make_segmentation_record(seed=seed, method=method, label=label, lift=lift, rounds=4)
            for method, label, lift in methods
            for seed in (1, 2)
        ]
    )


def test_self_contained_and_no_word_of_the_other_task(run_html: str, comparison_html: str) -> None:
    for html in (run_html, comparison_html):
        assert_self_contained(html)
        text = read(html).text
        assert "AUROC" not in text
        assert "ccuracy" not in text
        assert not re.search(r"\b(nan|None)\b", text)


def test_the_prompt_settings_are_kept_apart(record: Record, run_html: str) -> None:
    text = read(run_html).text
    last = summarise(record).numbers("last")
    for setting in ("box", "image", "jitter"):
        assert show(last[f"global_dice_{setting}"], "score") in text
    site = record.plain()["final"]["last"]["global"]["Bergen"]["test"]["prompts"]
    for setting, name in (("box", "true box"), ("image", "whole image"), ("jitter", "jittered box")):
        dice, iou = (show(site[setting][key], "score") for key in ("dice", "iou"))
        hd95 = show(site[setting]["hd95"], "distance")
        assert f"{name} 80 1 1 {dice} {iou} {hd95} px" in text  # cases, empty, missed
    assert "Some sites give HD95 in pixels and others in millimetres" in text
    assert len(metrics(run_html)) == 3  # Dice per round, per site, weights
    assert text.count("missed 1 of 344 cases") == 3  # 345 less Bergen's empty one


def test_intervals_and_patients_stand_in_the_table_of_sites() -> None:
    content = make_segmentation_record().plain()
    plain = content["final"]["last"]["global"]["Bergen"]["test"]
    plain |= {"patients": 33, "intervals": {}}
    for name, low, high in (("dice", 0.812, 0.934), ("hd95", 2.5, 11.25), ("missed", 0.0, 0.04)):
        plain["intervals"][f"box.{name}"] = {"se": 0.01, "low": low, "high": high}
    text = read(render_report([Record.model_validate(content)])).text
    assert re.search(
        r"true box 33 80 1 1 0–4 % 0\.\d{3} 0\.81–0\.93 0\.\d{3} [\d.]+ px 2\.50–11\.25 global whole image 33 80", text
    )
    assert "Below each value its 95 % interval, from 2,000 samples of the site's test patients" in text


def test_variants_stand_beside_the_model(record: Record, run_html: str) -> None:
    text = read(run_html).text
    summary = summarise(record)
    value, difference = (
        summary.numbers(part)["dice_box"] for part in (("variant", "mean_prompt"), ("difference", "mean_prompt"))
    )
    whole = summary.numbers("last")["global_dice_box"]
    expected = " ".join([show(whole, "score"), show(value, "score"), show(difference, "signed")])
    assert f"mean prompt Dice, true box {expected}" in text
    assert difference == pytest.approx(value - whole)


def test_bytes_stand_beside_floor_and_full_fine_tuning(run_html: str) -> None:
    text = read(run_html).text
    # 4 x 424,000 and 4 x 3,600,000 bytes in MiB; the factory measures 1,700,000 down and 1,700,400 up.
    assert "floor 1.62 MiB 1.62 MiB" in text
    assert "full fine-tuning would be 13.7 MiB 13.7 MiB" in text
    assert "measured, mean 1.62 MiB 1.62 MiB" in text


def test_without_personal_models_their_rows_are_left_out() -> None:
    content = make_segmentation_record().plain()
    for chosen in content["final"].values():
        chosen["personal"] = {}
    text = read(render_report([Record.model_validate(content)])).text
    assert "IoU, personal" not in text
    assert "no personal models" in text


def test_a_classification_shows_its_ablation_too() -> None:
    content = make_record(rounds=3).plain()
    last = content["final"]["last"]
    last["variants"] = {"mean_prompt": {site: last["global"][site] for site in ("Ashford", "Bergen")}}
    text = read(render_report([Record.model_validate(content)])).text
    assert re.search(r"last round mean prompt Accuracy ([\d.]+ %) \1 \+0\.000", text)
    assert re.search(r"AUROC (0\.\d{3}) \1 \+0\.000", text)


def test_comparison(comparison_html: str) -> None:
    text = read(comparison_html).text
    last = [summarise(make_segmentation_record(seed=seed, rounds=4)).numbers("last") for seed in (1, 2)]
    first, second = (one["global_dice_box"] for one in last)
    assert f"Fed-GPL 2 {(first + second) / 2:.3f} ± {abs(first - second) / 2**0.5:.3f}" in text
    assert "IoU, and HD95 in mm or px" in text
    assert "1.62 MiB 1.62 MiB 1.62 MiB 13.7 MiB" in text  # down, up, floor, full
    assert len(metrics(comparison_html)) == 2
    by_site = text[text.index("Dice of the global model, jittered box, after") :]
    assert "Ashford 200 cases Bergen 79 cases Cádiz 40 cases Dover 25 cases Fed-GPL 0." in by_site
    assert "first seed: 1 missed" in by_site
    ablation = text[text.index("Variants of the global model") : text.index("What it cost")]
    assert "Fed-GPL 2 0." in ablation
    assert "Full fine-tuning" not in ablation


def test_tasks_are_not_mixed(record: Record) -> None:
    with pytest.raises(ConfigError, match="cannot be compared: expected one task"):
        render_report([record, make_record(rounds=2)])


def test_tensorboard_has_dice_and_what_sites_report(record: Record, tmp_path: Path) -> None:
    write_events(record, tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    expected = record.evaluations[2].sites["Dover"].test
    assert expected is not None
    assert events.Scalars("global_test_dice/Dover")[2].value == pytest.approx(expected.dice)  # type: ignore[union-attr]
    site = record.rounds[0].participants[0]
    ratio = record.rounds[0].contributions[site].fields["prompt_diversity"]
    assert events.Scalars(f"fields/prompt_diversity/{site}")[0].value == pytest.approx(ratio)
    assert not any("accuracy" in tag for tag in events.Tags()["scalars"])
