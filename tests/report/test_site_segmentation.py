"""The site's own report of a segmentation: its metrics, the table beside it, and which cases it shows."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from consilia.core.errors import DataError
from consilia.report.site_segmentation import write_segmentation_report

pytestmark = pytest.mark.slow


def column(*widths: int) -> torch.Tensor:
    """(N, 8, 8) uint8 with the first ``width`` columns of ones."""
    masks = torch.zeros(len(widths), 8, 8, dtype=torch.uint8)
    for case, width in enumerate(widths):
        masks[case, :, :width] = 1
    return masks


def case(**changes: Any) -> dict[str, Any]:
    """True widths 4, 4, 4, 4, 0; predicted 4 (Dice 1), 2 (2/3), 0 (missed), 3 (6/7), 1 (left out)."""
    return {
        "site": "Ashford",
        "dataset": "polyps",
        "structure": "polyp",
        "predictions": {"global": {"box": column(4, 2, 0, 3, 1) != 0, "image": column(8, 8, 8, 8, 8) != 0}},
        "masks": column(4, 4, 4, 4, 0),
        "case_ids": ["a", "b", "c", "d<x>", "e"],
        "inputs": torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
        "spacing": None,
        "attention": None,
        **changes,
    }


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8").replace("\u00a0", " ")


def test_the_table_holds_every_case(tmp_path: Path) -> None:
    table = write_segmentation_report(tmp_path / "ashford.html", **case())
    assert table == tmp_path / "ashford_cases.csv"
    found = pd.read_csv(table)
    assert found["case_id"].tolist() == ["a", "b", "c", "d<x>", "e"]
    assert found["true_pixels"].tolist() == [32, 32, 32, 32, 0]
    np.testing.assert_allclose(found["global_box_dice"], [1, 2 / 3, 0, 6 / 7, np.nan], atol=1e-6)
    np.testing.assert_allclose(found["global_image_iou"], [0.5, 0.5, 0.5, 0.5, np.nan], atol=1e-6)
    assert found["global_box_hd95_px"].isna().tolist() == [False, False, True, False, True]


def test_metrics_and_pictures(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    table = write_segmentation_report(path, **case(spacing=torch.tensor([[1.0, 2.0]]).expand(5, 2)))
    html = text_of(path)
    assert "Stays at this site: contains patient data" in html
    assert f">{(1 + 2 / 3 + 0 + 6 / 7) / 4:.3f}<" in html
    assert " mm</td>" in html
    assert "4 cases whose true outline is not empty (1 with an empty one left out)" in html
    assert html.count("data:image/png") == 3
    # Dice in order: a 1, d 6/7, b 2/3, c 0; the lower of the two in the middle is the median case.
    assert html.index("Best</b>") < html.index("<code>a<") < html.index("Median</b>") < html.index("<code>b<")
    assert html.index("<code>b<") < html.index("Worst</b>") < html.index("<code>c</code>, Dice 0.000, missed")
    assert "default-src 'none'" in html
    assert "<x>" not in html
    assert {stat.S_IMODE(file.stat().st_mode) for file in (path, table)} == {0o600}


def test_attention_adds_a_picture_per_case(tmp_path: Path) -> None:
    write_segmentation_report(
        tmp_path / "r.html", **case(attention=torch.rand(5, 4, 4), attention_meaning="the brighter a place, the more")
    )
    html = text_of(tmp_path / "r.html")
    assert html.count("data:image/png") == 6
    assert "Lower pictures: the brighter a place" in html


def test_without_the_box_the_first_setting_picks_the_cases(tmp_path: Path) -> None:
    predictions = {"personal": {"image": column(4, 2, 0, 3, 1) != 0}}
    write_segmentation_report(tmp_path / "r.html", **case(predictions=predictions))
    assert "By Dice of the personal model, whole image." in text_of(tmp_path / "r.html")


def test_only_empty_truths_have_metrics_but_no_pictures(tmp_path: Path) -> None:
    write_segmentation_report(tmp_path / "r.html", **case(masks=column(0, 0, 0, 0, 0)))
    html = text_of(tmp_path / "r.html")
    assert "data:image/png" not in html
    assert "0 cases whose true outline is not empty" in html


def test_no_cases(tmp_path: Path) -> None:
    nothing = {"masks": column(), "case_ids": [], "inputs": torch.zeros(0, 1, 8, 8)}
    write_segmentation_report(tmp_path / "r.html", **case(predictions={"global": {"box": column() != 0}}, **nothing))
    assert "no test cases" in text_of(tmp_path / "r.html")


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected 5 case ids and inputs .* got 1 ids"):
        write_segmentation_report(tmp_path / "r.html", **case(case_ids=["a"]))
    with pytest.raises(DataError, match=r"inputs \(5, 3, 4, 4\)"):
        write_segmentation_report(tmp_path / "r.html", **case(inputs=torch.zeros(5, 3, 4, 4)))
    with pytest.raises(DataError, match=r"got \(4, 8, 8\) of torch.bool"):
        write_segmentation_report(tmp_path / "r.html", **case(predictions={"global": {"box": column(1, 1, 1, 1) != 0}}))
    assert not any(tmp_path.iterdir())
