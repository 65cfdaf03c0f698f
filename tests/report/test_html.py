"""The reports: self-contained, reproducible, escaped, and showing the metrics that the summary gives."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from consilia.core.errors import ConfigError
from consilia.evaluation.summary import series, summarise
from consilia.record.metrics import show
from consilia.record.schema import Record
from consilia.report.html import render_report, write_report
from consilia.report.plots import curves, forgetting
from tests.report.factory import make_baseline, make_record
from tests.report.reading import assert_self_contained, metrics, read


@pytest.fixture(scope="module")
def record() -> Record:
    return make_record()


@pytest.fixture(scope="module")
def run_html(record: Record) -> str:
    return render_report([record])


@pytest.fixture(scope="module")
def several() -> list[Record]:
    methods = (("fedavg", "FedAvg", 0.0), ("fedkper", "FedKPer", 0.05))
    runs = [
        make_record(seed=seed, method=method, label=label, lift=lift, rounds=5, test_only=False)
        for method, label, lift in methods
        for seed in (1, 2)
    ]
    return [*runs, make_baseline("centralised", "Centralised", 0.86), make_baseline("local_only", "Local", 0.8)]


@pytest.fixture(scope="module")
def comparison_html(several: list[Record]) -> str:
    return render_report(several)


def test_the_report_of_a_run_is_self_contained(run_html: str) -> None:
    assert_self_contained(run_html)


def test_a_comparison_is_self_contained(comparison_html: str) -> None:
    assert_self_contained(comparison_html)


def test_on_a_phone_tables_scroll_in_their_own_boxes(run_html: str, comparison_html: str) -> None:
    for html in (run_html, comparison_html):
        tables = read(html).tables
        assert len(tables) > 5
        assert all(tables)


def test_same_records_same_bytes(record: Record, run_html: str, tmp_path: Path) -> None:
    write_report([record], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == run_html


def test_the_metrics_of_the_summary_are_shown(record: Record, run_html: str) -> None:
    text = read(run_html).text
    summary = summarise(record)
    for chosen in summary.finals.values():
        for name in ("global_accuracy", "personal_accuracy", "balance"):
            assert show(chosen.numbers[name], "percent") in text
    assert show(summary.over_rounds.metrics["bwt"], "signed") in text
    assert "mean of 3 of 4 sites" in text  # Dover has one class only
    assert "Exeter trained nothing and only tests the global model" in text
    assert len(metrics(run_html)) == 8


def test_refused_and_missing_updates_are_listed(run_html: str) -> None:
    text = read(run_html).text
    assert "3 Dover tensor fc.weight: expected finite values, got NaN" in text
    assert "5 Bergen no update arrived" in text
    assert "Sites that did not answer site asked in vain answered again Bergen 2026-07-01T10:05:00+00:00 never" in text


def test_what_sites_report_has_a_column(run_html: str) -> None:
    text = read(run_html).text
    assert "mean weight Training accuracy Train loss Score Ashford" in text
    assert re.search(r"Ashford [\d\s]+ \d+ 0\.\d{3} 0\.\d+ 0\.4 0\.\d+", text)


def test_reliability_from_validation_cannot_be_taken_apart() -> None:
    record = make_record(rounds=3)
    record.config["reliability"] = "validation"
    assert "mean diversity" not in render_report([record])


def test_names_are_escaped_and_a_dollar_is_not_mathematics() -> None:
    name = "<i>$A_{</i>$"
    text = json.dumps(make_record(rounds=2).plain()).replace("Ashford", name.replace("/", "\\/"))
    html = render_report([Record.model_validate(json.loads(text))])
    assert "i" not in read(html).tags
    assert name in read(html).text


def test_stopped_early_is_said_first() -> None:
    content = make_record(rounds=2).plain()
    content["run"].update(status="stopped_early", rounds_planned=9)
    assert "This run stopped early, after 2 of 9 rounds." in read(render_report([Record.model_validate(content)])).text


@pytest.mark.parametrize("method", ["centralised", "local_only", "majority"])
def test_a_baseline_alone_has_a_report(method: str) -> None:
    text = read(render_report([make_baseline(method, "Y", 0.7)])).text
    assert "It has no rounds" in text
    assert not re.search(r"\b(nan|None)\b", text)


def test_comparison_shows_mean_and_sd(several: list[Record], comparison_html: str) -> None:
    text = read(comparison_html).text
    last = [summarise(record).numbers("last")["global_accuracy"] for record in several[2:4]]
    mean = sum(last) / 2
    sd = abs(last[0] - last[1]) / 2**0.5  # sample standard deviation of two values
    assert f"FedKPer 2 {100 * mean:.1f} ± {100 * sd:.1f} %" in text
    assert "All runs saw the same data" in text
    assert len(metrics(comparison_html)) == 6
    assert "method.name fedavg fedkper centralised local_only" in text


def test_different_data_is_a_warning(several: list[Record]) -> None:
    content = several[0].plain()
    content["sites"]["Ashford"]["fingerprint"] = "other"
    text = read(render_report([Record.model_validate(content), several[2]])).text
    assert "These runs did not see the same data" in text
    assert "All runs saw the same data" not in text


@pytest.mark.slow
def test_many_sites_and_rounds_stay_small_and_reproducible() -> None:
    content = make_record(rounds=1).plain()
    first = content["rounds"][0]
    names = [f"Hospital {number:02d}" for number in range(40)]
    content["sites"] |= dict.fromkeys(names, content["sites"]["Ashford"])
    contribution = next(iter(first["contributions"].values()))
    content["rounds"] = [
        {**first, "round": number, "contributions": dict.fromkeys(names, contribution)} for number in range(1, 121)
    ]
    record = Record.model_validate(content)
    html = render_report([record])
    assert len(html) < 1_000_000  # vector cells alone would take several times that
    assert html == render_report([record])


def test_long_runs_have_curves() -> None:
    every = series(make_record(rounds=60))
    assert curves(every, {"last round": 60, "best by validation": 60}, "classification") is not None
    assert forgetting(every) is not None


def test_only_baselines_can_be_compared() -> None:
    html = render_report([make_baseline("majority", "Majority", 0.5), make_baseline("centralised", "Central", 0.9)])
    assert "Majority" in read(html).text


def test_no_records() -> None:
    with pytest.raises(ConfigError, match="at least one record, got none"):
        render_report([])
