"""What methods show of their records: found by the method of a record, and by nothing where that is not installed."""

from __future__ import annotations

import re

from consilia.evaluation.summary import summarise
from consilia.methods.shown import panels_of
from consilia.record.schema import Record
from consilia.report.html import render_report
from tests.conftest import REPOSITORY
from tests.report.factory import make_record, make_segmentation_record
from tests.report.reading import assert_self_contained, metrics, read

PACKAGE = REPOSITORY / "custom" / "consilia"
SHARED = [*(PACKAGE / name for name in ("record", "evaluation", "report")), PACKAGE / "cli" / "show.py"]


def report(*records: Record) -> str:
    return render_report(records, panels_of(records))


def test_the_report_of_fedgpl_says_how_the_prompts_differ() -> None:
    record = make_segmentation_record()
    html = report(record)
    assert_self_contained(html)
    assert len(metrics(html)) == 4  # Dice per round, per site, prompt diversity, weights
    summary = summarise(record)
    first, last = (reports["prompt_diversity"] for reports in (summary.first_reports, summary.last_reports))
    assert f"mean of sites {first:.2g} {last:.2g}" in read(html).text
    assert "Do the prompts differ" not in read(report(make_segmentation_record(method="fedavg", label="FedAvg"))).text


def test_a_comparison_has_only_the_labels_that_reported() -> None:
    html = report(make_segmentation_record(), make_segmentation_record(method="fedavg", label="FedAvg"))
    text = read(html).text
    section = text[text.index("Do the prompts differ") : text.index("What it cost")]
    assert "Fed-GPL" in section
    assert "FedAvg" not in section


def test_the_report_of_fedkper_takes_its_weights_apart() -> None:
    html = report(make_record())
    assert_self_contained(html)
    # The factory's diversities: score / accuracy - 1e-6 must give them back.
    assert re.search(r"Ashford 0\.\d{3} 0\.950", read(html).text)
    assert re.search(r"Dover 0\.\d{3} 0\.000", read(html).text)
    assert "What the weights are made of" not in report(make_record(method="fedavg", label="FedAvg", rounds=3))


def test_a_method_that_is_not_installed_shows_nothing() -> None:
    assert panels_of([make_record(method="elsewhere", rounds=2)]) == []


def test_shared_modules_know_nothing_of_single_methods() -> None:
    """The name of a method or of what only it has, in a module that all share, is a door that others do not have."""
    known = re.compile(r"fedkim|fed-?gpl|injection|prompt_diversity|individuality|mean_(query|prompt)", re.IGNORECASE)
    files = [file for place in SHARED for file in ([place] if place.is_file() else sorted(place.rglob("*.*")))]
    assert len(files) > 40
    named = {
        f"{file.relative_to(PACKAGE)}: {line.strip()}"
        for file in files
        if file.suffix in (".py", ".html")
        for line in file.read_text(encoding="utf-8").splitlines()
        if known.search(line)
    }
    assert named == set()
