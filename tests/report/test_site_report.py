"""The site's own report: its metrics, the predictions beside it, and the gallery."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from consilia.core.errors import DataError
from consilia.report.site_report import write_site_report

CLASSES = ["benign", "malignant"]


def case(**changes: Any) -> dict[str, Any]:
    """Three cases; the global model gets the second wrong, the personal one none."""
    return {
        "site": "Ashford",
        "dataset": "lesions",
        "class_names": CLASSES,
        "logits_global": torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]]),
        "logits_personal": torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]]),
        "labels": torch.tensor([0, 1, 1]),
        "case_ids": ["p1", "p<2>", "p3"],
        "inputs": torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        **changes,
    }


def test_predictions_hold_every_case(tmp_path: Path) -> None:
    table = write_site_report(tmp_path / "ashford.html", **case())
    assert table == tmp_path / "ashford_predictions.csv"
    found = pd.read_csv(table)
    assert found["case_id"].tolist() == ["p1", "p<2>", "p3"]
    assert found["label"].tolist() == ["benign", "malignant", "malignant"]
    assert found["global_answer"].tolist() == ["benign", "benign", "malignant"]
    sigmoid = 1 / (1 + np.exp([2.0, 3.0, -1.0]))  # p(malignant) = 1 / (1 + e^(z0 - z1))
    np.testing.assert_allclose(found["global_p_malignant"], sigmoid, atol=1e-6)
    np.testing.assert_allclose(found["personal_p_benign"] + found["personal_p_malignant"], 1, atol=2e-6)


def test_the_report_warns_and_shows_both_models(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    table = write_site_report(path, **case())
    html = path.read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "Stays at this site: contains patient data" in html
    assert "66.7 %" in html  # global: 2 of 3
    assert "100.0 %" in html
    assert "p&lt;2&gt;" in html
    assert "malignant, taken for benign" in html
    assert html.count("data:image/png") == 6  # each case once per model
    assert "default-src 'none'" in html
    assert {stat.S_IMODE(file.stat().st_mode) for file in (path, table)} == {0o600}


def test_confusion_matrices_count_cases_by_true_and_predicted_class(tmp_path: Path) -> None:
    """Global: one benign right; of two malignant one is taken for benign. Personal: all on the diagonal."""
    write_site_report(tmp_path / "report.html", **case())
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    tables = re.findall(r"<caption>(Global|Personal) model</caption>(.*?)</table>", html, re.DOTALL)
    counts = {
        name: [re.findall(r'rgba\(0, 114, 178, ([\d.]+)\)">(\d+)', row) for row in table.split("<tr>")[2:]]
        for name, table in tables
    }
    assert counts["Global"] == [[("0.60", "1"), ("0.00", "0")], [("0.30", "1"), ("0.30", "1")]]
    assert counts["Personal"] == [[("0.60", "1"), ("0.00", "0")], [("0.00", "0"), ("0.60", "2")]]


def test_the_most_confident_come_first(tmp_path: Path) -> None:
    logits = torch.tensor([[1.0, 0.0], [4.0, 0.0], [2.0, 0.0]])
    changes = case(logits_global=logits, logits_personal=None, labels=torch.tensor([1, 1, 1]))
    write_site_report(tmp_path / "report.html", **changes)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.index("<code>p&lt;2&gt;") < html.index("<code>p3") < html.index("<code>p1")
    assert "personal model" not in html


def test_signals_have_no_gallery(tmp_path: Path) -> None:
    write_site_report(tmp_path / "report.html", **case(inputs=torch.zeros(3, 12, 100)))
    assert "data:image/png" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_no_cases_no_metrics(tmp_path: Path) -> None:
    empty = torch.zeros(0, 2)
    nothing = {"labels": torch.zeros(0, dtype=torch.int64), "case_ids": [], "inputs": torch.zeros(0, 1, 8, 8)}
    write_site_report(tmp_path / "report.html", **case(logits_global=empty, logits_personal=empty, **nothing))
    assert "no test cases" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected 3 case ids and inputs, got 2 ids"):
        write_site_report(tmp_path / "report.html", **case(case_ids=["a", "b"]))
    with pytest.raises(DataError, match=r"personal logits of shape \(3, 2\), got \(3, 4\)"):
        write_site_report(tmp_path / "report.html", **case(logits_personal=torch.zeros(3, 4)))
    assert not any(tmp_path.iterdir())


def test_attention_is_shown_over_the_global_models_images(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_site_report(
        path,
        **case(
            attention=torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(0)),
            attention_meaning="the brighter a place, the more",
        ),
    )
    html = path.read_text(encoding="utf-8")
    assert html.count("data:image/png") == 9  # each case once per model, and its attention once
    assert html.count("Second picture of each case: the brighter a place") == 1
    with pytest.raises(DataError, match=r"expected attention \(3, h, w\), got \(2, 2, 2\)"):
        write_site_report(path, **case(attention=torch.zeros(2, 2, 2)))
