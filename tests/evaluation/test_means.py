"""Means over sites: plain, by patients, and without sites of few patients."""

from __future__ import annotations

from typing import Any

import pytest

from consilia.evaluation.metrics import FINAL
from consilia.evaluation.rounds import Value, mean_over_sites, with_enough
from consilia.evaluation.summary import series, summarise
from consilia.record.schema import Record
from tests.report.factory import make_record

# Site: test patients, cases of class 1, AUROC, sensitivity. Each has 40 cases.
SITES: dict[str, tuple[int, int, float | None, float]] = {
    "Ashford": (40, 20, 0.8, 0.9),
    "Bergen": (20, 5, 0.6, 0.5),
    "Cádiz": (19, 20, 1.0, 0.7),  # too few patients
    "Dover": (40, 36, 0.9, 0.1),  # four of class 0
}


def split(patients: int, positives: int, auroc: float | None, sensitivity: float) -> dict[str, Any]:
    plain = {"count": 40, "correct": 30, "accuracy": 0.75, "balanced_accuracy": 0.75, "auroc": auroc, "loss": 0.5}
    return {
        **plain,
        "patients": patients,
        "positives": positives,
        "auprc": auroc,
        "brier": 0.2,
        "operating": {"threshold": 0.4, "sensitivity": sensitivity},
    }


def record_of(sites: dict[str, tuple[int, int, float | None, float]]) -> Record:
    content = make_record(rounds=2, test_only=False).plain()
    for chosen in content["final"].values():
        for kind in ("global", "personal"):
            chosen[kind] = {site: {"validation": None, "test": split(*values)} for site, values in sites.items()}
    return Record.model_validate(content)


def value(record: Record, name: str) -> Value:
    last = summarise(record).last
    assert last is not None
    return last.metrics[name]


def test_a_mean_is_of_sites_with_enough_patients() -> None:
    record = record_of(SITES)
    assert with_enough(record) == {"Ashford", "Bergen"}
    assert value(record, "global_auroc") == Value(pytest.approx((0.8 + 0.6) / 2), defined=2, of=4)
    assert value(record, "global_auroc_by_patients").value == pytest.approx((40 * 0.8 + 20 * 0.6) / 60)
    assert value(record, "personal_auprc").value == pytest.approx(0.7)
    assert value(record, "global_sensitivity") == Value(pytest.approx((0.9 + 0.5) / 2), defined=2, of=4)
    by_patients = (40 * 0.9 + 20 * 0.5) / 60
    assert value(record, "personal_sensitivity_by_patients").value == pytest.approx(by_patients)
    assert value(record, "global_accuracy").value == 0.75, "accuracy pools all sites"
    assert value(record, "global_ece").value is None


def test_where_no_site_has_enough_the_mean_is_of_all_and_says_so() -> None:
    record = record_of({site: SITES[site] for site in ("Cádiz", "Dover")})
    found = value(record, "global_auroc")
    assert found == Value(pytest.approx(0.95), defined=2, of=2, few=True)
    assert value(record, "global_sensitivity") == Value(pytest.approx(0.4), defined=2, of=2, few=True)


def test_an_undefined_auroc_does_not_make_small_sites_count() -> None:
    # The only sites with enough patients have none; the others stand in for them, marked.
    record = record_of({**SITES, "Ashford": (40, 20, None, 0.9), "Bergen": (20, 5, None, 0.5)})
    assert value(record, "global_auroc") == Value(pytest.approx(0.95), defined=2, of=4, few=True)


def test_an_older_record_counts_cases_for_patients() -> None:
    content = record_of(SITES).plain()
    content["sites"]["Dover"]["test"] = 19
    for chosen in content["final"].values():
        for by_site in (chosen["global"], chosen["personal"]):
            for site in by_site.values():
                del site["test"]["patients"], site["test"]["positives"]
    record = Record.model_validate(content)
    assert with_enough(record) == {"Ashford", "Bergen", "Cádiz"}
    parts = {site: metrics.test for site, metrics in record.final["last"].global_.items() if metrics.test is not None}
    smaller = {**parts, "Bergen": parts["Bergen"].model_copy(update={"count": 10})}
    found = mean_over_sites(smaller, "auroc", with_enough(record), weighted=True)
    assert found.value == pytest.approx((40 * 0.8 + 10 * 0.6 + 40 * 1.0) / 90)


def test_the_curve_over_rounds_is_of_the_same_sites() -> None:
    content = record_of(SITES).plain()
    content["evaluations"] = [
        {
            "version": 1,
            "model": "global",
            "sites": {site: {"validation": None, "test": split(*values)} for site, values in SITES.items()},
        }
    ]
    assert series(Record.model_validate(content))["global_auroc"][1] == pytest.approx(0.7)


def test_every_final_metric_has_a_name_and_a_meaning_of_its_own() -> None:
    metrics = FINAL.of("classification")
    assert len({metric.heading for metric in metrics}) == len(metrics)
    assert {"global_sensitivity", "personal_specificity", "global_auprc", "global_brier", "personal_ece"} <= {
        metric.name for metric in metrics
    }
    assert all(metric.meaning for metric in metrics)
