"""A site's own report about its own patients' outlines. Written at the site, for the site; it never leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from consilia.core.errors import DataError
from consilia.core.files import write_bytes, write_csv
from consilia.data.dataset import Split
from consilia.evaluation.segmentation import CaseMetrics, case_metrics, means
from consilia.evaluation.segmentation_metrics import PROMPTS
from consilia.evaluation.shapes import ellipses
from consilia.report.html import page
from consilia.report.pictures import attended, outlined
from consilia.report.site_answers import named_patients, patients_of
from consilia.report.site_outlines import Outlines
from consilia.report.site_report import ABOUT
from consilia.report.site_words import EXPLAINED, few_patients, range_of_mean, title

GALLERY = 6
"""Cases in each group of the gallery."""

WHOLE_IMAGE = "image"


def write_segmentation_report(
    path: Path,
    *,
    site: str,
    dataset: str,
    structure: str,
    predictions: Mapping[str, Mapping[str, Tensor]],
    test: Split,
    boxes: Mapping[str, Tensor] | None = None,
    attention: Tensor | None = None,
    attention_meaning: str = "",
    about: str = ABOUT,
    table_only: bool = False,
) -> Path:
    """Write the report to ``path`` and every case's metrics to ``<stem>_cases.csv`` beside it; returns the latter.

    Only the owner can read the two files.

    Args:
        path: the HTML file.
        site: its name.
        dataset: its name.
        structure: what is outlined.
        predictions: model (``global``, ``personal``, or any name) -> prompt setting -> (N, H, W) bool.
        test: the N cases: masks (N, H, W) uint8, images (N, c, H, W) as the model saw them, spacing where known.
        boxes: what the models were shown, by prompt setting: (N, 4) x1, y1, x2, y2, the outermost pixels.
        attention: (N, h, w) of the first model, shown over its images.
        attention_meaning: what it shows, in a sentence.
        about: which cases these are, in a sentence.
        table_only: leave out the page, whose plots take a second.

    Raises:
        DataError: the numbers of cases or the shapes do not fit together.
    """
    boxes, masks = boxes or {}, test.labels
    _check(test, boxes, attention)
    drawn = {setting: ellipses(shown, *masks.shape[1:]) for setting, shown in boxes.items() if setting != WHOLE_IMAGE}
    ellipse = {setting: case_metrics(found, masks, distances=False).dice for setting, found in drawn.items()}
    models = [
        Outlines(
            model,
            {setting: case_metrics(found, masks, test.spacing) for setting, found in by_setting.items()},
            ellipse,
            named_patients(test),
            structure,
        )
        for model, by_setting in predictions.items()
        if by_setting
    ]
    table = path.with_name(f"{path.stem}_cases.csv")
    columns = _columns(models, ellipse, test)
    write_csv(table, list(columns), zip(*columns.values(), strict=True), private=True)
    if table_only:
        return table
    empty = int((masks == 0).flatten(1).all(1).sum())
    values = _page_values(models, predictions, boxes, test, attention) if models and len(test) else {"models": []}
    html = page(
        "site_segmentation.html",
        site=site,
        dataset=dataset,
        structure=structure,
        count=len(test),
        empty=empty,
        table=table.name,
        attention_meaning=attention_meaning,
        about=about,
        **values,
    )
    write_bytes(path, html.encode(), private=True)
    return table


def _check(test: Split, boxes: Mapping[str, Tensor], attention: Tensor | None) -> None:
    count = len(test)
    if test.inputs.ndim != 4:
        raise DataError(f"segmentation report: expected inputs (N, c, H, W), got {tuple(test.inputs.shape)}")
    for setting, shown in boxes.items():
        if tuple(shown.shape) != (count, 4):
            raise DataError(f"segmentation report: expected {setting} boxes ({count}, 4), got {tuple(shown.shape)}")
    if attention is not None and (attention.ndim != 3 or len(attention) != count):
        raise DataError(f"segmentation report: expected attention ({count}, h, w), got {tuple(attention.shape)}")


def _page_values(
    models: Sequence[Outlines],
    predictions: Mapping[str, Mapping[str, Tensor]],
    boxes: Mapping[str, Tensor],
    test: Split,
    attention: Tensor | None,
) -> dict[str, Any]:
    # Here, because it pulls in matplotlib, which the command line should not wait for.
    from consilia.report import site_plots

    first = models[0]
    return {
        "patients": patients_of(named_patients(test), torch.ones(len(test), dtype=torch.bool)),
        "cautions": few_patients(named_patients(test), len(test)),
        "unit": "px" if test.spacing is None else "mm",
        "models": [
            {
                "name": one.name,
                "title": title(one.name),
                "explained": EXPLAINED.get(one.name, ""),
                "rule": "",
                "unanswered": 0,
                "findings": one.findings(),
            }
            for one in models
        ],
        "rows": _rows(models),
        "spread": site_plots.dice(_spread(models)),
        "shown": first,
        "groups": _gallery(first, predictions[first.name], boxes, test, attention),
        "attended": attention is not None,
    }


def _rows(models: Sequence[Outlines]) -> list[dict[str, Any]]:
    """The table: model and ellipse, under each prompt setting."""
    rows = [
        {
            "model": one.name,
            "setting": setting,
            **means(found),
            "range": _range(found.dice, one.patients, 3),
            "iou_range": _range(found.iou, one.patients, 3),
            "hd95_range": _range(found.hd95, one.patients, 2),
            "missed_range": _missed_range(found, one.patients),
        }
        for one in models
        for setting, found in one.cases.items()
    ]
    return rows + [
        {"model": "ellipse", "setting": setting, "dice": _mean(dice), "range": _range(dice, models[0].patients, 3)}
        for setting, dice in models[0].ellipse.items()
    ]


def _mean(values: Tensor) -> float | None:
    there = values[values.isfinite()]
    return float(there.mean()) if len(there) else None


def _range(values: Tensor, patients: Sequence[str], digits: int) -> str | None:
    ends = range_of_mean(values, patients)
    return None if ends is None or ends[0] == ends[1] else " to ".join(f"{end:.{digits}f}" for end in ends)


def _missed_range(cases: CaseMetrics, patients: Sequence[str]) -> str | None:
    """Of the share of the cases that are not empty, as cases of the same number."""
    count = int((~cases.empty).sum())
    return _range(count * torch.where(cases.empty, torch.nan, cases.missed.double()), patients, 0)


def _spread(models: Sequence[Outlines]) -> dict[str, Tensor]:
    found = {f"{one.name}, {_prompt(setting)}": cases.dice for one in models for setting, cases in one.cases.items()}
    ellipse = {f"ellipse, {_prompt(name)}": dice for name, dice in models[0].ellipse.items()}
    return found | ellipse


def _prompt(setting: str) -> str:
    return {str(name): text for name, text in PROMPTS.items()}.get(setting, setting)


def _columns(models: Sequence[Outlines], ellipse: Mapping[str, Tensor], test: Split) -> dict[str, list[Any]]:
    """Of the csv: case id, patient where known, pixels of the true mask, and all metrics, NaN where undefined."""
    unit = "px" if test.spacing is None else "mm"
    columns: dict[str, list[Any]] = {"case_id": list(test.case_ids)}
    if test.patients:
        columns["patient"] = list(test.patients)
    columns["true_pixels"] = (test.labels != 0).flatten(1).sum(1).tolist()
    for one in models:
        for setting, metrics in one.cases.items():
            columns[f"{one.name}_{setting}_dice"] = metrics.dice.tolist()
            columns[f"{one.name}_{setting}_iou"] = metrics.iou.tolist()
            columns[f"{one.name}_{setting}_hd95_{unit}"] = metrics.hd95.tolist()
    return columns | {f"ellipse_{setting}_dice": dice.tolist() for setting, dice in ellipse.items()}


def _gallery(
    model: Outlines,
    predictions: Mapping[str, Tensor],
    boxes: Mapping[str, Tensor],
    test: Split,
    attention: Tensor | None,
) -> dict[str, list[dict[str, Any]]]:
    """Missed cases of every setting, then by Dice the worst, the median and the best, in case order on a tie."""
    dice = model.cases[model.setting].dice
    missed = model.cases[model.setting].missed
    order = [
        index
        for index in torch.argsort(dice, stable=True).tolist()
        if bool(dice[index].isfinite()) and not bool(missed[index])
    ]
    picked = {
        (f"Missed, {_prompt(setting)}", setting): cases.missed.nonzero()[:, 0].tolist()[:GALLERY]
        for setting, cases in model.cases.items()
    }
    picked[("Worst of those outlined", model.setting)] = order[: GALLERY // 2]
    if len(order) > GALLERY // 2:
        picked[("Median and best", model.setting)] = sorted({order[len(order) // 2], order[-1]}, key=order.index)
    return {
        name: [
            {
                "case_id": test.case_ids[index],
                "patient": test.patients[index] if test.patients else None,
                "dice": float(model.cases[setting].dice[index]),
                "image": outlined(
                    test.inputs[index],
                    test.labels[index],
                    predictions[setting][index],
                    boxes[setting][index] if setting in boxes and setting != WHOLE_IMAGE else None,
                ),
                "attention": None if attention is None else attended(test.inputs[index], attention[index]),
            }
            for index in indices
        ]
        for (name, setting), indices in picked.items()
        if indices
    }
