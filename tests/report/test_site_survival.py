"""The site's own report of a survival: Kaplan-Meier and log-rank by hand and on published data, and the table."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from consilia.core.errors import DataError
from consilia.data.dataset import Split
from consilia.report.site_survival import RiskGroups, write_survival_report
from tests.evaluation.test_survival import LEUKAEMIA, OTHER_TREATMENT
from tests.report.reading import assert_self_contained


def split(labels: torch.Tensor, patients: tuple[str, ...] = ()) -> Split:
    ids = tuple(f"case<{i}>" for i in range(len(labels)))
    return Split(torch.zeros(len(labels), 2), labels, ids, None, patients or ids)


def groups(scores: torch.Tensor, labels: torch.Tensor) -> RiskGroups:
    return RiskGroups("global", scores.double().numpy(), labels[:, 0].numpy(), labels[:, 1].numpy() > 0)


def test_curves_of_six_cases_by_hand() -> None:
    """Lower: event at 2 of 3 at risk, censored at 3, event at 5 of 1. Higher: censored and event at 1, 4 censored."""
    labels = torch.tensor([[2, 1], [3, 0], [5, 1], [1, 1], [1, 0], [4, 0]], dtype=torch.float64)
    found = groups(torch.tensor([0.0, 0, 0, 1, 1, 1]), labels)
    times, shares = found.curve(0)
    assert dict(zip(times.tolist(), shares.tolist(), strict=True)) == pytest.approx({0: 1, 2: 2 / 3, 3: 2 / 3, 5: 0})
    times, shares = found.curve(1)
    assert dict(zip(times.tolist(), shares.tolist(), strict=True)) == pytest.approx({0: 1, 1: 2 / 3, 4: 2 / 3})
    assert found.at_risk(0, [0, 2, 2.5, 5]) == [3, 3, 2, 1]
    assert found.at_risk(1, [0, 1, 4, 5]) == [3, 3, 1, 0]


def test_leukaemia_data_as_published() -> None:
    """Freireich 1963: share in remission at 6 and 23 weeks .857 and .448; log-rank chi-squared 16.79, p 4.17e-5."""
    found = groups(OTHER_TREATMENT, LEUKAEMIA)
    times, shares = found.curve(0)
    assert shares[np.searchsorted(times, [6, 23])] == pytest.approx([0.857, 0.448], abs=5e-4)
    assert found.log_rank == pytest.approx(4.17e-5, rel=2e-3)
    assert found.at_risk(0, [10, 20]) == [15, 8]


def test_halves_are_by_the_median_and_equal_log_hazards_have_none() -> None:
    labels = torch.tensor([[1, 1], [2, 1], [3, 0], [4, 0]], dtype=torch.float64)
    assert groups(torch.tensor([3.0, 2, 1, 0]), labels).high.tolist() == [True, True, False, False]
    assert groups(torch.ones(4), labels).high is None
    assert groups(torch.tensor([torch.nan, 2, 1, 0]), labels).log_rank is None
    assert groups(torch.tensor([3.0, 2, 1, 0]), labels * torch.tensor([1.0, 0.0])).log_rank is None


@pytest.mark.slow
def test_report_and_table(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    scores = {"global": OTHER_TREATMENT + 0.1 * torch.rand(42, generator=draw), "personal": torch.zeros(42)}
    table = write_survival_report(
        tmp_path / "report.html",
        site="Ashford",
        dataset="relapse",
        event="relapse",
        log_hazards=scores,
        test=split(LEUKAEMIA),
    )
    html = (tmp_path / "report.html").read_text()
    assert_self_contained(html)
    for said in (
        "Stays at this site",
        "42\u00a0cases",
        "30 with the event",
        "p &lt; 0.001",
        "higher risk",
        "no groups",
    ):
        assert said in html
    found = pd.read_csv(table)
    assert found["time"].tolist() == LEUKAEMIA[:, 0].tolist()
    assert found["global_group"].value_counts().to_dict() == {"lower risk": 21, "higher risk": 21}
    assert found["personal_group"].isna().all()
    for path in (table, tmp_path / "report.html"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.slow
@pytest.mark.parametrize("cases", [0, 1, 3])
def test_few_cases_and_none(tmp_path: Path, cases: int) -> None:
    labels = LEUKAEMIA[3:4].repeat(cases, 1)  # no event
    scores = {"global": torch.arange(cases).float()}
    write_survival_report(
        tmp_path / "r.html", site="a", dataset="d", event="relapse", log_hazards=scores, test=split(labels)
    )
    html = (tmp_path / "r.html").read_text()
    assert ("No case with the event relapse" if cases else "no test cases") in html


def test_numbers_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected global log hazards \(42,\), got \(3,\)"):
        write_survival_report(
            tmp_path / "r.html",
            site="a",
            dataset="d",
            event="e",
            log_hazards={"global": torch.zeros(3)},
            test=split(LEUKAEMIA),
        )
