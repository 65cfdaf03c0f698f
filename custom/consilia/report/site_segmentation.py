"""A site's own report about its own patients' outlines. Written at the site, for the site; it never leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from consilia.core.errors import DataError
from consilia.core.files import write_bytes, write_csv
from consilia.evaluation.segmentation import CaseMetrics, case_metrics, means
from consilia.report.html import page
from consilia.report.pictures import attended, outlined

Cases = Mapping[str, Mapping[str, CaseMetrics]]  # model -> prompt setting -> metrics of each case


def write_segmentation_report(
    path: Path,
    *,
    site: str,
    dataset: str,
    structure: str,
    predictions: Mapping[str, Mapping[str, Tensor]],
    masks: Tensor,
    case_ids: Sequence[str],
    inputs: Tensor,
    spacing: Tensor | None = None,
    attention: Tensor | None = None,
    attention_meaning: str = "",
) -> Path:
    """Write the report to ``path`` and every case's metrics to ``<stem>_cases.csv`` beside it; returns the latter.

    ``predictions``: model (``global``, ``personal``) -> prompt setting -> (N, H, W) bool, of the test cases. ``masks``
    (N, H, W) uint8, the true ones of the ``structure``; ``inputs`` (N, c, H, W) as the model saw them, grey or colour;
    ``spacing`` (N, 2) mm per pixel down and across, without which distances are in pixels; ``attention`` (N, h, w) of
    the global model, with its meaning in a sentence. Only the owner can read the two files.

    Raises:
        DataError: the numbers of cases or the shapes do not fit together.
    """
    _check(masks, case_ids, inputs, attention)
    cases = {
        model: {setting: case_metrics(found, masks, spacing) for setting, found in by_setting.items()}
        for model, by_setting in predictions.items()
    }
    unit = "px" if spacing is None else "mm"
    table = path.with_name(f"{path.stem}_cases.csv")
    columns = _columns(cases, masks, case_ids, unit)
    write_csv(table, list(columns), zip(*columns.values(), strict=True), private=True)
    shown = _first(predictions)
    html = page(
        "site_segmentation.html",
        site=site,
        dataset=dataset,
        structure=structure,
        count=len(masks),
        empty=int((masks == 0).flatten(1).all(1).sum()),
        unit=unit,
        rows=[
            {"model": model, "setting": setting, **means(metrics)}
            for model, by_setting in cases.items()
            for setting, metrics in by_setting.items()
        ],
        shown=shown,
        gallery=_gallery(cases, shown, predictions, masks, case_ids, inputs, attention) if shown else [],
        table=table.name,
        attention_meaning=attention_meaning,
    )
    write_bytes(path, html.encode(), private=True)
    return table


def _check(masks: Tensor, case_ids: Sequence[str], inputs: Tensor, attention: Tensor | None) -> None:
    count = len(masks)
    if len(case_ids) != count or inputs.ndim != 4 or len(inputs) != count or inputs.shape[-2:] != masks.shape[-2:]:
        raise DataError(
            f"segmentation report: expected {count} case ids and inputs (N, c, H, W) for masks {tuple(masks.shape)}, "
            f"got {len(case_ids)} ids and inputs {tuple(inputs.shape)}"
        )
    if attention is not None and (attention.ndim != 3 or len(attention) != count):
        raise DataError(f"segmentation report: expected attention ({count}, h, w), got {tuple(attention.shape)}")


def _first(predictions: Mapping[str, Mapping[str, Tensor]]) -> tuple[str, str] | None:
    """The model and prompt setting by which cases are picked: global and box where there are, else the first."""
    models = {model: by_setting for model, by_setting in predictions.items() if by_setting}
    if not models:
        return None
    model = "global" if "global" in models else next(iter(models))
    return model, "box" if "box" in models[model] else next(iter(models[model]))


def _columns(cases: Cases, masks: Tensor, case_ids: Sequence[str], unit: str) -> dict[str, list[Any]]:
    """Of the csv: case id, pixels of the true mask, and per model and setting its metrics, NaN where undefined."""
    columns: dict[str, list[Any]] = {
        "case_id": list(case_ids),
        "true_pixels": (masks != 0).flatten(1).sum(1).tolist(),
    }
    for model, by_setting in cases.items():
        for setting, metrics in by_setting.items():
            columns[f"{model}_{setting}_dice"] = metrics.dice.tolist()
            columns[f"{model}_{setting}_iou"] = metrics.iou.tolist()
            columns[f"{model}_{setting}_hd95_{unit}"] = metrics.hd95.tolist()
    return columns


def _gallery(
    cases: Cases,
    shown: tuple[str, str],
    predictions: Mapping[str, Mapping[str, Tensor]],
    masks: Tensor,
    case_ids: Sequence[str],
    inputs: Tensor,
    attention: Tensor | None,
) -> list[dict[str, Any]]:
    """Best, median and worst case by Dice of the ``shown`` model and setting, in case order on a tie."""
    model, setting = shown
    dice, found = cases[model][setting].dice, predictions[model][setting]
    order = [index for index in torch.argsort(dice, descending=True, stable=True).tolist() if dice[index].isfinite()]
    picked = {"Best": order[:1], "Median": order[len(order) // 2 :][:1], "Worst": order[-1:]} if order else {}
    return [
        {
            "title": title,
            "case_id": case_ids[index],
            "dice": float(dice[index]),
            "missed": bool(cases[model][setting].missed[index]),
            "image": outlined(inputs[index], masks[index], found[index]),
            "attention": None if attention is None else attended(inputs[index], attention[index]),
        }
        for title, indices in picked.items()
        for index in indices
    ]
