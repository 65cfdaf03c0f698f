"""The site's own report: its metrics, the predictions beside it, and the gallery."""

from __future__ import annotations

import re
import stat
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from consilia.core.errors import DataError
from consilia.data.dataset import Split
from consilia.report.site_report import write_site_report
from tests.report.reading import assert_self_contained, read

CLASSES = ["benign", "malignant"]
IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
GLOBAL = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
PERSONAL = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])


def split(**changes: Any) -> Split:
    return Split(**{"inputs": IMAGES, "labels": torch.tensor([0, 1, 1]), "case_ids": ("p1", "p<2>", "p3"), **changes})


def case(**changes: Any) -> dict[str, Any]:
    """Three cases; the global model gets the second wrong, the personal one none."""
    return {
        "site": "Ashford",
        "dataset": "lesions",
        "class_names": CLASSES,
        "models": {"global": GLOBAL, "personal": PERSONAL},
        "test": split(),
        **changes,
    }


def report(folder: Path, **changes: Any) -> str:
    write_site_report(folder / "report.html", **case(**changes))
    return (folder / "report.html").read_text(encoding="utf-8").replace("\u00a0", " ")


def test_predictions_hold_every_case(tmp_path: Path) -> None:
    thresholds = {"global": 0.1, "personal": None}
    table = write_site_report(tmp_path / "ashford.html", **case(thresholds=thresholds))
    assert table == tmp_path / "ashford_predictions.csv"
    found = pd.read_csv(table)
    assert found["case_id"].tolist() == ["p1", "p<2>", "p3"]
    assert found["label"].tolist() == ["benign", "malignant", "malignant"]
    assert found["global_answer"].tolist() == ["benign", "benign", "malignant"]
    sigmoid = 1 / (1 + np.exp([2.0, 3.0, -1.0]))  # p(malignant) = 1 / (1 + e^(z0 - z1)) = .12, .05, .73
    assert found["global_answer_at_threshold"].tolist() == ["malignant", "benign", "malignant"]
    assert found["personal_answer_at_threshold"].tolist() == ["benign", "malignant", "malignant"]
    np.testing.assert_allclose(found["global_p_malignant"], sigmoid, atol=1e-6)
    np.testing.assert_allclose(found["personal_p_benign"] + found["personal_p_malignant"], 1, atol=2e-6)
    assert "patient" not in found


def test_patients_are_counted_and_named(tmp_path: Path) -> None:
    html = report(tmp_path, test=split(patients=("ann", "bob", "bob")))
    assert "<b>3 cases of 2 patients</b> of this site: 2 malignant, 1 benign." in html
    assert "patient bob" in html
    assert "Only 2 patients: read every number here as a hint" in html
    assert pd.read_csv(tmp_path / "report_predictions.csv")["patient"].tolist() == ["ann", "bob", "bob"]
    assert "Patients are not named in the data" in report(tmp_path)
    # As data are read whose site.yaml names no column of patients.
    unnamed = report(tmp_path, test=split(patients=split().case_ids))
    assert "Patients are not named in the data" in unnamed
    assert "of 3 patients" not in unnamed


def test_the_report_warns_and_shows_both_models(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    html = report(tmp_path)
    assert "Stays at this site: contains patient data" in html
    assert "Not a medical device" in html
    assert "To tell <b>malignant</b> from benign" in html
    assert "Of 2 malignant cases it finds 1<" in html
    assert "Of 2 malignant cases it finds 2<" in html
    assert "Personal model beside the global one:</b> It finds 1 more malignant case" in html
    assert "Right in 2 of 3 cases (67 %)" in html
    assert "p&lt;2&gt;" in html
    assert "malignant, taken for benign" in html
    assert html.count("data:image/png") == 6  # each case once per model
    assert_self_contained(html)
    assert "nan" not in read(html).text.replace("malignant", "")
    assert {stat.S_IMODE(file.stat().st_mode) for file in (path, tmp_path / "report_predictions.csv")} == {0o600}


def test_every_picture_is_described_and_every_heading_in_its_place(tmp_path: Path) -> None:
    html = report(tmp_path)
    assert all('alt="' in tag and 'alt=""' not in tag for tag in re.findall(r"<img [^>]*>", html))
    levels = [int(level) for level in re.findall(r"<h([1-6])", html)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))


def test_metrics_at_the_threshold_and_at_a_half(tmp_path: Path) -> None:
    """At .1 the global model says malignant of 1 and 3: one of two found, the benign one not cleared."""
    html = report(tmp_path, models={"global": GLOBAL}, thresholds={"global": 0.1})
    (table,) = re.findall(r"<caption>Global model</caption>\s*(<thead><tr><th></th>.*?)</table>", html, re.DOTALL)
    heads = re.findall(r'<th class="n">(.*?)</th>', table)
    assert heads == ["at the threshold, 10 %", "at 50 %"]
    rows = {
        heading: [re.sub(r"<.*", "", cell) for cell in re.findall(r'<td class="n">(.*?)</td>', cells)]
        for heading, cells in re.findall(r"<tr><th>(\w[^<]*)</th>(.*?)</tr>", table)
    }
    assert rows["Sensitivity"] == ["50.0 %", "50.0 %"]
    assert rows["Specificity"] == ["0.0 %", "100.0 %"]
    assert rows["Positive predictive value"] == ["50.0 %", "100.0 %"]
    assert rows["Negative predictive value"] == ["0.0 %", "50.0 %"]
    assert rows["Accuracy"] == ["33.3 %", "66.7 %"]


def test_confusion_matrices_count_cases_by_true_and_predicted_class(tmp_path: Path) -> None:
    """Global: one benign right; of two malignant one is taken for benign. Personal: all on the diagonal."""
    html = report(tmp_path)
    tables = re.findall(
        r"<caption>(Global|Personal) model</caption>\s*(<thead><tr><th>truth.*?)</table>", html, re.DOTALL
    )
    counts = {
        name: [re.findall(r'rgba\(0, 114, 178, ([\d.]+)\)">(\d+)', row) for row in table.split("<tr>")[2:]]
        for name, table in tables
    }
    assert counts["Global"] == [[("0.60", "1"), ("0.00", "0")], [("0.30", "1"), ("0.30", "1")]]
    assert counts["Personal"] == [[("0.60", "1"), ("0.00", "0")], [("0.00", "0"), ("0.60", "2")]]


def test_missed_cases_come_first_and_the_surest_before_the_others(tmp_path: Path) -> None:
    logits = torch.tensor([[1.0, 0.0], [4.0, 0.0], [0.0, 2.0]])
    html = report(tmp_path, models={"global": logits}, test=split(labels=torch.tensor([1, 1, 0])))
    order = ["Missed: malignant cases taken for benign", "<code>p&lt;2&gt;", "<code>p1", "False alarms", "<code>p3"]
    places = [html.index(text) for text in order]
    assert places == sorted(places)
    assert "Personal model" not in html


def test_what_is_no_image_is_listed(tmp_path: Path) -> None:
    html = report(tmp_path, test=split(inputs=torch.zeros(3, 12, 100)))
    assert "data:image/png" not in html
    assert "<code>p&lt;2&gt;</code></td><td>malignant</td><td>benign</td>" in html


def test_no_cases_no_metrics(tmp_path: Path) -> None:
    none = Split(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), ())
    assert "no test cases" in report(tmp_path, models={"global": torch.zeros(0, 2)}, test=none)


def test_a_single_case_has_a_report(tmp_path: Path) -> None:
    one = Split(torch.zeros(1, 4), torch.tensor([0]), ("only",), patients=("ann",))
    html = report(tmp_path, models={"global": GLOBAL[:1], "local-only": -GLOBAL[:1]}, test=one)
    assert "No malignant case among these" in html
    assert "Only 1 patient: " in html
    assert "Local-only model beside the global one" in html
    assert not re.search(r"\bnan\b", read(html).text, re.IGNORECASE)


def test_more_classes_have_a_recall_each(tmp_path: Path) -> None:
    """Two of three classes occur. Class a: 1 of 2 found; c: 1 of 1; an answer of a is right in 1 of 1."""
    logits = torch.eye(3)[[0, 2, 2]] * 3
    html = report(
        tmp_path, class_names=["a", "b", "c"], models={"global": logits}, test=split(labels=torch.tensor([0, 0, 2]))
    )
    assert "To tell 3 classes apart: a, b, c." in html
    rows = re.findall(r"<tr><th>([abc])</th>(.*?)</tr>", html)[:3]
    assert [(name, re.findall(r'class="n">([^<]*)<', cells)) for name, cells in rows] == [
        ("a", ["2", "1", "50.0 %", "100.0 %"]),
        ("b", ["0", "0", "–", "–"]),
        ("c", ["1", "1", "100.0 %", "50.0 %"]),
    ]
    assert "global_answer_at_threshold" not in pd.read_csv(tmp_path / "report_predictions.csv")


def test_a_case_without_numbers_is_wrong_and_has_no_answer(tmp_path: Path) -> None:
    logits = GLOBAL.clone()
    logits[2, 0] = torch.nan
    html = report(tmp_path, models={"global": logits})
    assert "It gave no number for 1 case, which count as wrong." in html
    assert "Of 2 malignant cases it finds 0" in html
    assert pd.read_csv(tmp_path / "report_predictions.csv")["global_answer"].isna().tolist() == [False, False, True]


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"personal logits of shape \(3, 2\), got \(3, 4\)"):
        write_site_report(tmp_path / "report.html", **case(models={"personal": torch.zeros(3, 4)}))
    assert not any(tmp_path.iterdir())


def test_attention_is_shown_over_the_first_models_images(tmp_path: Path) -> None:
    shown = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(0))
    html = report(tmp_path, attention=shown, attention_meaning="the brighter a place, the more")
    assert html.count("data:image/png") == 9  # each case once per model, and its attention once
    assert html.count("Second picture of each case: the brighter a place") == 1
    with pytest.raises(DataError, match=r"expected attention \(3, h, w\), got \(2, 2, 2\)"):
        report(tmp_path, attention=torch.zeros(2, 2, 2))
