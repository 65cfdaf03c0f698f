"""Site by site: support, intervals, what guessing gives, and curves; in a run's report and in a comparison."""

from __future__ import annotations

import re
from typing import Any

import pytest

from consilia.evaluation.rounds import pooled_loss
from consilia.record.schema import Metrics, Record
from consilia.report.html import render_report
from consilia.report.over_rounds import learning
from consilia.report.site_table import commonest_share, detail_tables
from consilia.report.subject import subject
from tests.report.factory import detailed, make_baseline, make_record
from tests.report.reading import metrics, read


@pytest.fixture(scope="module")
def record() -> Record:
    return make_record(rounds=4)


@pytest.fixture(scope="module")
def text(record: Record) -> str:
    return read(render_report([record])).text


def last(record: Record) -> dict[str, Any]:
    return {"global": record.final["last"].global_, "personal": record.final["last"].personal}


def test_the_commonest_class_over_sites_by_hand() -> None:
    # 50 of 200 and 10 of 40 are positive: always "no" is right on 180 of 240.
    some = [Metrics.model_validate(detailed(site, 0.8)) for site in ("Ashford", "Cádiz")]
    assert commonest_share(some) == pytest.approx(180 / 240)
    many = [some[0].model_copy(update={"positives": 190})]
    assert commonest_share(many) == pytest.approx(190 / 200)
    unknown = some[0].model_copy(update={"positives": None})
    assert commonest_share([unknown, some[1]]) is None
    assert commonest_share([]) is None


def test_every_site_has_support_values_and_intervals(record: Record, text: str) -> None:
    whole, personal = detail_tables(record, last(record))
    assert [row.site for row in whole.rows] == ["Ashford", "Bergen", "Cádiz", "Dover", "Exeter"]
    assert [row.site for row in personal.rows] == ["Ashford", "Bergen", "Cádiz", "Dover"]
    assert [row.few for row in whole.rows] == [False, False, False, True, False]  # Dover: 25 cases of 8 patients
    found = whole.rows[0].metrics
    interval = found.intervals["auroc"]
    assert whole.rows[0].cells["auroc"].value == f"{found.auroc:.3f}"
    assert whole.rows[0].cells["auroc"].interval == f"{interval.low:.2f}–{interval.high:.2f}"
    assert "auroc" not in whole.rows[3].cells
    expected = f"Ashford 200 200 50 0.40 {found.auroc:.3f} {interval.low:.2f}–{interval.high:.2f}"
    assert expected in text
    assert re.search(r"Dover \* 8 25 0 0\.40 – – 90\.0 %", text)
    assert (
        "Fewer than 20 test patients, or than 5 test cases of a class: shown here, and left out of means over sites"
        in text
    )


def test_what_guessing_gives_stands_beside_every_accuracy(text: str) -> None:
    assert (
        "of the 300 test cases, where always giving the commoner class is right on 75.0 %" in text
    )  # Exeter: 75 of 300
    assert "commonest class 75.0 %; AUROC" in text
    # The sites' own: 75, 75, 75 and, at Dover with one class, 100 %.
    assert "commonest class: 81.2 %" in text


def test_the_first_sentence_says_over_how_many_sites_a_mean_is() -> None:
    content = make_record(rounds=2, test_only=False).plain()
    for chosen in content["final"].values():
        for place, (_, found) in enumerate(sorted(chosen["global"].items())):
            found["test"] |= {"patients": 30 if place < 2 else 10, "auroc": 0.6 + 0.1 * place, "positives": None}
    two = read(render_report([Record.model_validate(content)])).text
    assert "its AUROC is 0.650, on average over 2 of 4 sites, those with enough patients." in two
    assert "AUROC 0.650 (2 of 4 sites)" in two
    assert "Global AUROC, by\u00a0patients" in two or "Global AUROC, by patients" in two
    for chosen in content["final"].values():
        for found in list(chosen["global"].values())[1:]:
            found["test"]["patients"] = 10
    one = read(render_report([Record.model_validate(content)])).text
    assert "that of the one site of 4 with enough patients." in one
    assert "Global AUROC, by" not in one, "the mean of one site, again"


def test_curves_and_learning_are_drawn(record: Record) -> None:
    html = render_report([record])
    for name in ("roc-curves-per-site", "reliability-per-site", "loss-and-auroc-per-round"):
        assert f'data-name="{name}"' in html


def test_a_record_without_details_has_none_of_it() -> None:
    content = make_record(rounds=2).plain()
    for chosen in content["final"].values():
        for by_site in (chosen["global"], chosen["personal"]):
            for site in by_site.values():
                for key in ("patients", "positives", "operating", "at_half", "intervals", "curves", "brier", "ece"):
                    site["test"].pop(key, None)
    html = render_report([Record.model_validate(content)])
    assert 'data-name="roc' not in html
    text = read(html).text
    assert "commonest class" not in text
    assert "Below each value" not in text
    assert re.search(r"Ashford – 200 0\.\d{3}", text)  # patients are not known


def test_title_and_first_sentence_name_data_sites_and_who_is_held_out(record: Record, text: str) -> None:
    where = "lesions at 4 sites (Ashford, Bergen, Cádiz, Dover)"
    held_out = "tested on Exeter, which trained nothing"
    assert subject(record).startswith(f"{where}, {held_out}")
    html = render_report([record])
    (title,) = re.findall(r"<title>(.*?)</title>", html)
    assert where in title
    assert held_out in title
    assert f"FedKPer: {where}, tested on Exeter" in text
    assert "on data set lesions at 4 sites (Ashford, Bergen, Cádiz, Dover), with 1 035 training cases" in text
    assert "all global metrics are of its test cases" in text


def test_local_training_alone_is_not_tested_on_a_held_out_site() -> None:
    content = make_record(rounds=2).plain()
    for chosen in content["final"].values():
        chosen["global"] = {}
    text = read(render_report([Record.model_validate(content)])).text
    assert "tested on Exeter" not in text
    assert "Each model on its own site's test cases" in text


def test_loss_is_over_cases_and_training_loss_over_training_cases() -> None:
    record = make_record(rounds=3)
    found = learning(record)
    version = record.evaluations[0]
    there = [m.validation for m in version.sites.values() if isinstance(m.validation, Metrics)]
    by_hand = sum((m.loss or 0) * m.count for m in there) / sum(m.count for m in there)
    assert found["validation_loss"][version.version] == pytest.approx(by_hand)
    assert found["train_loss"] == {1: pytest.approx(0.4), 2: pytest.approx(0.4), 3: pytest.approx(0.4)}
    assert pooled_loss([]) is None


@pytest.fixture(scope="module")
def compared() -> str:
    runs = [make_record(seed=seed, label="FedAvg", method="fedavg", rounds=3) for seed in (1, 2)]
    return render_report([*runs, make_baseline("linear", "linear", 0.8), make_baseline("majority", "majority", 0.6)])


def test_a_comparison_has_auroc_per_site_beside_the_baselines(compared: str) -> None:
    text = read(compared).text
    runs = [make_record(seed=seed, label="FedAvg", method="fedavg", rounds=3) for seed in (1, 2)]
    auroc = [one.final["last"].global_["Ashford"].test.auroc for one in runs]  # type: ignore[union-attr]
    mean, sd = sum(auroc) / 2, abs(auroc[0] - auroc[1]) / 2**0.5
    first = runs[0].final["last"].global_["Ashford"].test.intervals["auroc"]  # type: ignore[union-attr]
    table = text[text.index("AUROC of the global model, after") : text.index("Accuracy of the global model, after")]
    assert "Ashford 200 patients, 50 malignant" in table
    assert "Exeter 300 patients, 75 malignant trained nothing" in table
    assert f"FedAvg {mean:.3f} ± {sd:.3f} first seed: {first.low:.2f}–{first.high:.2f}" in table
    assert re.search(r"linear 0\.880 0\.82–0\.8", table)
    accuracy = text[text.index("Accuracy of the global model, after") :]
    assert "commonest class of these cases 75.0 % 75.0 % 75.0 % 100.0 % 75.0 %" in accuracy
    assert "tested on Exeter, which trained nothing" in text
    assert "lesions: FedAvg, tested on Exeter" in text
    assert "it is right on 75.0 % of those of the global model and, on average over sites, on 81.2 %" in text
    assert 'data-name="roc-curves-per-site-and-method"' in compared
    assert 'data-name="auroc-per-site-and-method"' in compared
    assert len(metrics(compared)) == 6


def test_warnings_stand_on_top() -> None:
    record = make_record(rounds=2)
    warned = record.model_copy(update={"warnings": ["validation loss rises from round 3 on"]})
    text = read(render_report([warned])).text
    assert text.index("validation loss rises") < text.index("FedKPer was run")
    both = read(render_report([warned, make_record(seed=2, rounds=2)])).text
    assert "validation loss rises from round 3 on (demo)" in both
