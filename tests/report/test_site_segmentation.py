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
from consilia.data.dataset import Split
from consilia.report.site_segmentation import write_segmentation_report
from tests.report.reading import assert_self_contained

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
        "test": split(),
        **changes,
    }


def split(**changes: Any) -> Split:
    """Five cases in the colours of noise."""
    inputs = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Split(
        **{"inputs": inputs, "labels": column(4, 4, 4, 4, 0), "case_ids": ("a", "b", "c", "d<x>", "e"), **changes}
    )


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
    table = write_segmentation_report(path, **case(test=split(spacing=torch.tensor([[1.0, 2.0]]).expand(5, 2))))
    html = text_of(path)
    assert "Stays at this site: contains patient data" in html
    assert f">{(1 + 2 / 3 + 0 + 6 / 7) / 4:.3f}<" in html
    assert " mm</td>" in html
    assert "4 cases whose true outline is not empty (1 with an empty one left out)" in html
    assert html.count("data:image/png") == 4
    # Dice in order: c 0 and missed, b 2/3, d 6/7, a 1.
    order = ["Missed, true box</h3>", "<code>c<", "Worst of those outlined</h3>", "<code>b<", "<code>d&lt;", "<code>a<"]
    assert [html.index(text) for text in order] == sorted(html.index(text) for text in order)
    assert_self_contained(html)
    assert "<x>" not in html
    assert {stat.S_IMODE(file.stat().st_mode) for file in (path, table)} == {0o600}


def test_the_first_screen_says_it_in_words(tmp_path: Path) -> None:
    """True masks are a square of 4 x 4; the ellipse in it lacks the corners: 12 of 16 pixels, Dice 24 / 28 = .857.

    The model has Dice 1, 2/3, 0 and 1: mean .667, half of the cases above .833, one in ten below .2.
    """
    squares = torch.zeros(4, 8, 8, dtype=torch.uint8)
    squares[:, 2:6, 2:6] = 1
    found = squares.clone()
    found[1, :, 4:] = 0
    found[2] = 0
    whole = torch.ones_like(squares)
    boxes = {
        "box": torch.tensor([[2.0, 2.0, 5.0, 5.0]]).expand(4, 4),
        "image": torch.tensor([[0.0, 0, 7, 7]]).expand(4, 4),
    }
    write_segmentation_report(
        tmp_path / "r.html",
        **case(
            predictions={"global": {"box": found != 0, "image": whole != 0}},
            test=split(
                inputs=torch.rand(4, 1, 8, 8), labels=squares, case_ids=("a", "b", "c", "d"), patients=tuple("pqrs")
            ),
            boxes=boxes,
        ),
    )
    html = text_of(tmp_path / "r.html")
    assert "To outline the <b>polyp</b> in an image" in html
    assert "<b>4 cases of 4 patients</b>" in html
    assert "Only 4 patients: " in html
    assert "In a box around it: Dice 0.67<" in html
    assert "Half of the cases lie above 0.83, one in ten below 0.20." in html
    assert "Misses 1 of 4<" in html
    assert "no other outline is poor" in html
    assert "An ellipse in the same box: Dice 0.86<" in html
    assert "The model is 0.19 worse (in repeated samples 0." in html
    assert "The difference may be chance." in html
    assert "Without a box, on the whole image: Dice 0.40<" in html  # 2 x 16 / (16 + 64)
    table = pd.read_csv(tmp_path / "r_cases.csv")
    np.testing.assert_allclose(table["ellipse_box_dice"], 24 / 28, atol=1e-6)
    assert table["patient"].tolist() == ["p", "q", "r", "s"]


def test_attention_adds_a_picture_per_case(tmp_path: Path) -> None:
    write_segmentation_report(
        tmp_path / "r.html", **case(attention=torch.rand(5, 4, 4), attention_meaning="the brighter a place, the more")
    )
    html = text_of(tmp_path / "r.html")
    assert html.count("data:image/png") == 8
    assert "Lower pictures: the brighter a place" in html


def test_without_the_box_the_first_setting_picks_the_cases(tmp_path: Path) -> None:
    predictions = {"personal": {"image": column(4, 2, 0, 3, 1) != 0}}
    write_segmentation_report(tmp_path / "r.html", **case(predictions=predictions))
    html = text_of(tmp_path / "r.html")
    assert "Cases to look at: personal model" in html
    assert "Missed, whole image" in html


def test_only_empty_truths_have_metrics_but_no_pictures(tmp_path: Path) -> None:
    write_segmentation_report(tmp_path / "r.html", **case(test=split(labels=column(0, 0, 0, 0, 0))))
    html = text_of(tmp_path / "r.html")
    assert "data:image/png" not in html
    assert "0 cases whose true outline is not empty" in html
    assert "In a box around it: nothing can be said" in html


def test_no_cases(tmp_path: Path) -> None:
    none = Split(torch.zeros(0, 1, 8, 8), column(), ())
    write_segmentation_report(tmp_path / "r.html", **case(predictions={"global": {"box": column() != 0}}, test=none))
    assert "no test cases" in text_of(tmp_path / "r.html")


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected box boxes \(5, 4\), got \(4, 4\)"):
        write_segmentation_report(tmp_path / "r.html", **case(boxes={"box": torch.zeros(4, 4)}))
    with pytest.raises(DataError, match=r"got \(4, 8, 8\) of torch.bool"):
        write_segmentation_report(tmp_path / "r.html", **case(predictions={"global": {"box": column(1, 1, 1, 1) != 0}}))
    assert not any(tmp_path.iterdir())
