"""The page of a study."""

from __future__ import annotations

import base64
import re
from functools import cache

import pandas as pd

from consilia.record.study_result import StudyResult
from consilia.report.plots_study import pareto_front
from consilia.report.study_page import study_page
from consilia.study.analysis import analyse
from consilia.study.claims import Claim
from tests.study.made_study import NO_ROUNDS, classified, plan

HOSTILE = 'x"><script>alert(1)</script>'


@cache
def study() -> StudyResult:
    rows = classified({"fedavg": 1.0, HOSTILE: 1.6, "centralised": 1.5}, sites={"a": 40, "tiny": 8}, seeds=[0, 1])
    rows = rows[~((rows["method"] == "centralised") & (rows["model"] == "personal"))]
    runs = plan(rows)
    lost = {**runs.iloc[0].to_dict(), "method": "fedbn", "status": "cannot", "reason": "no norm layers"}
    rounds = pd.DataFrame(
        [
            {"data": "heart", "option": "", "method": method, "fold": fold, "seed": 0, "version": version}
            | {"model": "global", "metric": "auroc", "value": 0.6 + 0.01 * version, "bytes": 1e6 * version}
            for method in ("fedavg", HOSTILE)
            for fold in range(3)
            for version in range(6)
        ]
    )
    claim = Claim(name="better", metric="auroc", method=HOSTILE, against="fedavg")
    return analyse(
        rows, pd.concat([runs, pd.DataFrame([lost])], ignore_index=True), rounds, [claim], draws=60, title="Heart <i>"
    )


def test_page_is_self_contained_escaped_and_equal_for_equal_results() -> None:
    result = study()
    html = study_page(result)
    assert html == study_page(StudyResult.model_validate_json(result.model_dump_json()))
    assert "<script>alert" not in html
    assert "Heart &lt;i&gt;" in html
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert html.count("<script>") == 1


def test_page_has_every_drawing_and_what_went_wrong() -> None:
    html = study_page(study())
    for name in (
        "heart-generalisation-and-personalisation-auroc",
        "heart-auroc-of-the-global-model-by-round-and-by-bytes",
        "heart-auroc-by-site",
        "differences-of-the-claims",
    ):
        drawing = re.search(rf'data-name="{name}".*?base64,([^"]+)"', html)
        assert drawing, name
        assert base64.b64decode(drawing[1]).startswith(b"<?xml")
    assert "no norm layers" in html
    assert "not other hospitals" in html
    assert "training labels of all sites" in html


def test_page_without_any_result() -> None:
    rows = classified({"fedavg": 1.0}, sites={"a": 40})
    html = study_page(analyse(rows.iloc[:0], plan(rows, status="not run", reason="budget spent"), NO_ROUNDS, []))
    assert "no run has a result" in html
    assert html.count("budget spent") == 9


def test_pareto_front_by_hand() -> None:
    points = {"a": (0.9, 0.1), "b": (0.5, 0.5), "c": (0.4, 0.4), "d": (0.1, 0.9), "e": (0.5, 0.4), "twin": (0.5, 0.5)}
    assert pareto_front(points) == ["d", "b", "twin", "a"]
