"""Sensitivity and specificity in a study's tables are those of the runs: at thresholds of validation cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from consilia.record.schema import SiteMetrics
from consilia.record.split_metrics import Metrics
from consilia.study.analysis import analyse
from consilia.study.results import predictions_of, rounds_of, runs_of
from tests.study.small_study import carried_out, federation, study, table


@pytest.mark.parametrize("version", ["last", "best"])
def test_a_studys_sensitivity_is_at_the_threshold_that_validation_cases_chose(tmp_path: Path, version: str) -> None:
    # Few positives: no model gives the positive class a half, and at that threshold sensitivity would be 0.
    data = federation(tmp_path, {"a": table("a", 80, positives=0.2), "b": table("b", 90, positives=0.3)})
    planned = carried_out(study(data, baselines=("linear",)), tmp_path / "study")
    result = analyse(predictions_of(planned), runs_of(planned, ["c"]), rounds_of(planned), (), draws=20)
    compared, moved = 0, set()
    for one in planned:
        assert one.record is not None
        final = one.record.final["last" if version == "last" else "best"]
        sites: dict[str, dict[str, SiteMetrics]] = {"global": final.global_, "personal": final.personal}
        for model, by_site in sites.items():
            for site, metrics in by_site.items():
                test = metrics.test
                assert isinstance(test, Metrics)
                assert test.operating is not None
                for name in ("sensitivity", "specificity"):
                    (score,) = [
                        score
                        for score in result.scores
                        if (score.method, score.version, score.model, score.metric, score.site)
                        == (one.label, version, model, name, site)
                    ]
                    assert score.value == pytest.approx(getattr(test.operating, name)), (one.label, model, site, name)
                    compared += 1
                moved.add(test.operating.threshold)
    assert compared == 16
    assert moved - {0.5}
