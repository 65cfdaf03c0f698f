"""Metrics of segmentation: Dice, IoU and HD95 of each case, and their means over a split per prompt setting.

With the prediction A and the true mask B of one case, Dice = 2 |A ∩ B| / (|A| + |B|) and IoU = |A ∩ B| / |A ∪ B|, from
exact pixel counts. HD95 is the larger of the two 95th percentiles of the distances from each mask's edge pixels to the
nearest edge pixel of the other (MONAI).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consilia.core.errors import DataError
from consilia.evaluation.bootstrap import RESAMPLES, Array, errors_and_intervals, grouped
from consilia.evaluation.weighted import ratio


@dataclass(frozen=True)
class CaseMetrics:
    """Metrics of N cases: ``dice``, ``iou`` and ``hd95`` (N,) float64, NaN where undefined; the others (N,) bool.

    ``empty``: the true mask is empty, and no metric is defined. ``missed``: only the prediction is;
    Dice and IoU are 0, HD95 is undefined.
    """

    dice: Tensor
    iou: Tensor
    hd95: Tensor
    empty: Tensor
    missed: Tensor


def segmentation_metrics(
    predictions: Mapping[str, Tensor],
    masks: Tensor,
    *,
    spacing: Tensor | None = None,
    distances: bool = True,
    patients: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, Any] | None:
    """Means of one model over one split, in the form of ``SegmentationMetrics``; None for an empty split.

    ``predictions``: prompt setting (``box``, ``image``, ``jitter``) -> (N, H, W) bool. ``masks`` (N, H, W) uint8, other
    than 0 inside the structure. ``spacing`` (N, 2): mm per pixel down and across; without it HD95 is in pixels.
    ``distances`` = False leaves HD95 out, which takes nearly all of the time. ``patients`` of each case (empty: every
    case is one) add their number, ``patients``, and ``intervals`` by bootstrap over them, named ``box.dice`` say.

    Raises:
        DataError: shapes or types do not fit, no prompt setting is given, a spacing is not above 0, or there is not one
            patient for each case.
    """
    if not predictions:
        raise DataError("segmentation metrics need the predictions of at least one prompt setting, got none")
    cases = {
        setting: case_metrics(values, masks, spacing, distances and len(masks) > 0)
        for setting, values in predictions.items()
    }
    if not len(masks):
        return None
    return {
        "count": len(masks),
        "empty": int(next(iter(cases.values())).empty.sum()),
        "unit": "px" if spacing is None else "mm",
        "prompts": {setting: means(found) for setting, found in cases.items()},
        **({} if patients is None else _of_patients(cases, grouped(patients, len(masks)), resamples)),
    }


def _of_patients(cases: Mapping[str, CaseMetrics], groups: NDArray[np.int64], resamples: int) -> dict[str, Any]:
    """Number of patients, and intervals of every mean; of ``missed`` as a share of the cases that are not empty."""

    def drawn(weights: Array) -> dict[str, Array]:
        return {
            f"{setting}.{name}": _weighted_mean(values.double().numpy(), weights)
            for setting, found in cases.items()
            for name, values in (
                ("dice", found.dice),
                ("iou", found.iou),
                ("hd95", found.hd95),
                ("missed", torch.where(found.empty, torch.nan, found.missed.double())),
            )
        }

    return {
        "patients": int(groups.max()) + 1,
        "intervals": errors_and_intervals(drawn, groups, seed=0, resamples=resamples),
    }


def _weighted_mean(values: Array, weights: Array) -> Array:
    """Mean (R,) of the values (N,) that are no NaN, by each row of ``weights`` (R, N)."""
    there = ~np.isnan(values)
    return ratio(weights[:, there] @ values[there], weights[:, there].sum(axis=1))


def case_metrics(
    prediction: Tensor, masks: Tensor, spacing: Tensor | None = None, distances: bool = True
) -> CaseMetrics:
    """Metrics of each case under one prompt setting; arguments and errors as in :func:`segmentation_metrics`."""
    _check(prediction, masks, spacing)
    found, truth = prediction.detach().cpu().flatten(1), masks.detach().cpu().flatten(1) != 0
    both, sizes, whole = (found & truth).sum(1), found.sum(1) + truth.sum(1), (found | truth).sum(1)
    empty = ~truth.any(1)
    missed = ~empty & ~found.any(1)
    hd95 = torch.full((len(masks),), torch.nan, dtype=torch.float64)
    for case in torch.nonzero(~empty & ~missed).flatten().tolist() if distances else []:
        hd95[case] = _hd95(prediction[case], masks[case] != 0, None if spacing is None else spacing[case].tolist())
    nan = torch.tensor(torch.nan, dtype=torch.float64)
    return CaseMetrics(
        dice=torch.where(empty, nan, 2 * both.double() / sizes),
        iou=torch.where(empty, nan, both.double() / whole),
        hd95=hd95,
        empty=empty,
        missed=missed,
    )


def means(cases: CaseMetrics) -> dict[str, float | int | None]:
    """``dice``, ``iou`` and ``hd95`` over the cases where each is defined (else None), and how many ``missed``."""
    return {
        "dice": _mean(cases.dice),
        "iou": _mean(cases.iou),
        "hd95": _mean(cases.hd95),
        "missed": int(cases.missed.sum()),
    }


def _hd95(found: Tensor, truth: Tensor, spacing: list[float] | None) -> float:
    # Here, because MONAI takes seconds to import.
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    # MONAI 1.6 warns of an argument that its own code passes.
    warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
    pair = (mask.detach().cpu()[None, None].float() for mask in (found, truth))
    return float(compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing))


def _mean(values: Tensor) -> float | None:
    defined = values[values.isfinite()]
    return float(defined.mean()) if len(defined) else None


def _check(prediction: Tensor, masks: Tensor, spacing: Tensor | None) -> None:
    if masks.ndim != 3 or masks.dtype != torch.uint8:
        raise DataError(
            f"segmentation metrics need masks (N, H, W) of uint8, got {tuple(masks.shape)} of {masks.dtype}"
        )
    if prediction.shape != masks.shape or prediction.dtype != torch.bool:
        raise DataError(
            f"segmentation metrics need predictions of shape {tuple(masks.shape)} and type bool, "
            f"got {tuple(prediction.shape)} of {prediction.dtype}"
        )
    if spacing is None:
        return
    if spacing.shape != (len(masks), 2) or not bool((spacing.isfinite() & (spacing > 0)).all()):
        raise DataError(
            f"segmentation metrics need a spacing of shape {(len(masks), 2)}, finite and above 0 (mm per pixel), "
            f"got shape {tuple(spacing.shape)} and values from {_range(spacing)}"
        )


def _range(spacing: Tensor) -> str:
    return f"{float(spacing.min()):.3g} to {float(spacing.max()):.3g}" if spacing.numel() else "nothing"
