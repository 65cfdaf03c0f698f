"""Metrics of segmentation against hand values, NumPy, SciPy's distance transform and MONAI's own metrics."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from monai.metrics.meandice import DiceMetric
from monai.metrics.meaniou import MeanIoU
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor

from consilia.core.determinism import derive_seed
from consilia.core.errors import DataError
from consilia.evaluation.segmentation import case_metrics, segmentation_metrics
from consilia.record.schema import SegmentationMetrics


def box(top: int, left: int, bottom: int, right: int, size: int = 12) -> Tensor:
    """(1, size, size) uint8 with ones in rows top..bottom-1 and columns left..right-1."""
    mask = torch.zeros(1, size, size, dtype=torch.uint8)
    mask[:, top:bottom, left:right] = 1
    return mask


def blobs(cases: int, seed: int) -> Tensor:
    """Ragged random shapes (cases, 24, 30) uint8, none of them empty."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:24, :30]
    shapes = []
    for _ in range(cases):
        (y, x), radius = rng.uniform(8, 16, 2), rng.uniform(4, 7)
        shapes.append((np.hypot(rows - y, columns - x) + rng.normal(0, 1, rows.shape)) < radius)
    return torch.from_numpy(np.stack(shapes).astype(np.uint8))


def scipy_hd95(found: np.ndarray, truth: np.ndarray, spacing: tuple[float, float]) -> float:
    edges = [mask & ~binary_erosion(mask) for mask in (np.pad(found, 1), np.pad(truth, 1))]
    away = [distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    return max(np.percentile(away[1][edges[0]], 95), np.percentile(away[0][edges[1]], 95))


def test_two_squares_by_hand() -> None:
    # 4 x 4 against the same moved right by one: 12 pixels in common, 20 in the union, edges 12 pixels each.
    found = segmentation_metrics({"box": box(2, 3, 6, 7) != 0}, box(2, 2, 6, 6))
    assert found is not None
    # Of the 12 edge pixels of each, more than 5 % lie 1 pixel from the other's edge, and none further.
    assert found == {
        "count": 1,
        "empty": 0,
        "unit": "px",
        "prompts": {"box": {"dice": 24 / 32, "iou": 12 / 20, "hd95": 1.0, "missed": 0}},
    }
    assert SegmentationMetrics.model_validate(found).dice == 0.75


def test_spacing_is_down_and_across() -> None:
    # Moved down by two pixels of 0.5 mm, and across by two pixels of 3 mm.
    mask, spacing = box(4, 4, 6, 6), torch.tensor([[0.5, 3.0]])
    down = segmentation_metrics({"box": box(6, 4, 8, 6) != 0}, mask, spacing=spacing)
    across = segmentation_metrics({"box": box(4, 6, 6, 8) != 0}, mask, spacing=spacing)
    assert down is not None
    assert across is not None
    # Every pixel is an edge pixel; the far pair is 2 pixels from the other square, the near pair 1.
    assert down["prompts"]["box"]["hd95"] == pytest.approx(1.0)
    assert across["prompts"]["box"]["hd95"] == pytest.approx(6.0)
    assert down["unit"] == "mm"


def test_dice_and_iou_agree_with_numpy_and_monai() -> None:
    masks, found = blobs(6, 0), blobs(6, 1) != 0
    cases = case_metrics(found, masks, distances=False)
    a, b = found.numpy(), masks.numpy() != 0
    both, total = (a & b).sum((1, 2)), a.sum((1, 2)) + b.sum((1, 2))
    np.testing.assert_array_equal(cases.dice.numpy(), 2 * both / total)
    np.testing.assert_array_equal(cases.iou.numpy(), both / (total - both))
    dice, iou = DiceMetric(reduction="none"), MeanIoU(reduction="none")
    for metric, values in ((dice, cases.dice), (iou, cases.iou)):
        expected = metric(found[:, None].float(), masks[:, None].float())
        assert isinstance(expected, Tensor)
        torch.testing.assert_close(values.float(), expected.flatten())
    assert cases.hd95.isnan().all()


@pytest.mark.parametrize("spacing", [None, (0.4, 1.7)])
def test_hd95_agrees_with_a_distance_transform(spacing: tuple[float, float] | None) -> None:
    masks, found = blobs(4, 2), blobs(4, 3) != 0
    given = None if spacing is None else torch.tensor([spacing]).expand(4, 2)
    cases = case_metrics(found, masks, given)
    expected = [scipy_hd95(a, b != 0, spacing or (1, 1)) for a, b in zip(found.numpy(), masks.numpy(), strict=True)]
    np.testing.assert_allclose(cases.hd95.numpy(), expected, rtol=1e-6)


def test_each_case_has_its_own_spacing() -> None:
    masks, found = box(2, 2, 6, 6).repeat(2, 1, 1), (box(2, 3, 6, 7) != 0).repeat(2, 1, 1)
    cases = case_metrics(found, masks, torch.tensor([[1.0, 0.25], [1.0, 2.0]]))
    # The second: a moved column is 2 mm away, but the pixels of the rows still lie on each other; 4 of 12 are off.
    assert cases.hd95.tolist() == pytest.approx([0.25, scipy_hd95(found[1].numpy(), masks[1].numpy() != 0, (1, 2))])


def test_a_mask_at_the_border_has_an_edge_there() -> None:
    whole, corner = torch.ones(1, 12, 12, dtype=torch.uint8), box(0, 0, 12, 6) != 0
    cases = case_metrics(corner, whole)
    assert cases.hd95.tolist() == [pytest.approx(scipy_hd95(corner[0].numpy(), whole[0].numpy() != 0, (1, 1)))]


def test_empty_truths_are_left_out_and_empty_predictions_count_as_zero() -> None:
    nothing = torch.zeros(1, 12, 12, dtype=torch.uint8)
    masks = torch.cat([box(2, 2, 6, 6), nothing, box(2, 2, 6, 6), nothing])
    found = torch.cat([box(2, 2, 6, 6), box(0, 0, 3, 3), nothing, nothing]) != 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # MONAI is not asked about empty masks
        metrics = segmentation_metrics({"image": found}, masks)
    assert metrics is not None
    assert (metrics["count"], metrics["empty"]) == (4, 2)
    assert metrics["prompts"]["image"] == {"dice": 0.5, "iou": 0.5, "hd95": 0.0, "missed": 1}
    SegmentationMetrics.model_validate(metrics)
    cases = case_metrics(found, masks)
    assert [math.isnan(value) for value in cases.dice.tolist()] == [False, True, False, True]
    assert cases.missed.tolist() == [False, False, True, False]


def test_without_a_case_to_score_everything_is_none() -> None:
    found = segmentation_metrics({"box": box(1, 1, 3, 3) != 0}, torch.zeros(1, 12, 12, dtype=torch.uint8))
    assert found is not None
    assert found["empty"] == 1
    assert found["prompts"]["box"] == {"dice": None, "iou": None, "hd95": None, "missed": 0}
    SegmentationMetrics.model_validate(found)


def test_hd95_can_be_left_out_and_a_mask_of_255_is_a_mask() -> None:
    found = segmentation_metrics({"box": box(2, 2, 6, 6) != 0}, box(2, 2, 6, 6) * 255, distances=False)
    assert found is not None
    assert found["prompts"]["box"] == {"dice": 1.0, "iou": 1.0, "hd95": None, "missed": 0}


def test_empty_split_is_none() -> None:
    assert segmentation_metrics({"box": torch.zeros(0, 4, 4) != 0}, torch.zeros(0, 4, 4, dtype=torch.uint8)) is None


@pytest.mark.parametrize(
    ("predictions", "masks", "spacing", "message"),
    [
        ({}, torch.zeros(1, 4, 4), None, "at least one prompt setting"),
        ({"box": torch.zeros(1, 4, 4)}, torch.zeros(1, 4, 4, dtype=torch.uint8), None, r"type bool, got \(1, 4, 4\)"),
        ({"box": torch.zeros(1, 4, 5) != 0}, torch.zeros(1, 4, 4, dtype=torch.uint8), None, r"got \(1, 4, 5\)"),
        ({"box": torch.zeros(1, 4, 4) != 0}, torch.zeros(1, 4, 4), None, r"of uint8, got \(1, 4, 4\) of torch.float32"),
        ({"box": box(0, 0, 1, 1) != 0}, box(0, 0, 1, 1), torch.tensor([[0.0, 1.0]]), "values from 0 to 1"),
        ({"box": box(0, 0, 1, 1) != 0}, box(0, 0, 1, 1), torch.ones(2, 2), r"shape \(1, 2\).*got shape \(2, 2\)"),
    ],
)
def test_what_does_not_fit_is_named(
    predictions: dict[str, Tensor], masks: Tensor, spacing: Tensor | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        segmentation_metrics(predictions, masks, spacing=spacing)


@pytest.mark.parametrize("unknown", [False, True])
def test_intervals_are_those_of_a_plain_loop_over_patients(unknown: bool) -> None:
    masks = blobs(9, seed=1)
    found = {"box": blobs(9, seed=2) != 0, "image": blobs(9, seed=3) != 0}
    masks[4] = 0  # empty: left out
    found["box"][[2, 7]] = False  # missed
    patients = () if unknown else tuple("aabcddeef")
    metrics = segmentation_metrics(found, masks, patients=patients, resamples=60)
    assert metrics is not None
    assert metrics["patients"] == (9 if unknown else 6)
    members: dict[str, list[int]] = {}
    for case, patient in enumerate(patients or "012345678"):
        members.setdefault(patient, []).append(case)
    draws = np.random.default_rng(derive_seed(0, "bootstrap")).integers(0, len(members), size=(60, len(members)))
    cases = {setting: case_metrics(one, masks) for setting, one in found.items()}
    drawn: dict[str, list[float]] = {}
    for draw in draws:
        chosen = [case for which in draw for case in members[sorted(members)[which]] if case != 4]
        for setting, one in cases.items():
            for name in ("dice", "iou", "hd95"):
                values = getattr(one, name)[chosen].numpy()
                drawn.setdefault(f"{setting}.{name}", []).append(float(np.nanmean(values)))
            drawn.setdefault(f"{setting}.missed", []).append(sum(case in (2, 7) for case in chosen) / len(chosen))
    drawn["image.missed"] = [0.0] * 60
    assert metrics["intervals"].keys() == drawn.keys()
    for name, values in drawn.items():
        low, high = np.percentile(values, [2.5, 97.5])
        expected = {"se": np.std(values, ddof=1), "low": low, "high": high}
        assert metrics["intervals"][name] == pytest.approx(expected, abs=1e-9), name
    SegmentationMetrics.model_validate(metrics)


def test_one_patient_has_no_interval() -> None:
    found = segmentation_metrics({"box": blobs(3, seed=2) != 0}, blobs(3, seed=1), patients="aaa")
    assert found is not None
    assert (found["patients"], found["intervals"]) == (1, {})
