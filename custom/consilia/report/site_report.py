"""A site's own report about its own patients. It is written at the site, for the site, and never leaves it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from consilia.core.errors import DataError
from consilia.core.files import write_bytes, write_csv
from consilia.evaluation.classification import classification_metrics
from consilia.record.metrics import PREDICTIONS
from consilia.report.html import page
from consilia.report.pictures import attended, thumbnail

GALLERY = 6  # images in a row of the gallery, and one row of each kind


def write_site_report(
    path: Path,
    *,
    site: str,
    dataset: str,
    class_names: Sequence[str],
    logits_global: Tensor | None,
    logits_personal: Tensor | None,
    labels: Tensor,
    case_ids: Sequence[str],
    inputs: Tensor | None,
    attention: Tensor | None = None,
    attention_meaning: str = "",
) -> Path:
    """Write the report to ``path`` and the predictions to ``<stem>_predictions.csv`` beside it; returns the latter.

    ``logits_*`` (N, C) of the test cases, None where the site has no such model; ``labels`` (N,); ``inputs`` (N, ...)
    as the model saw them: images (N, c, H, W) get a gallery, anything else does not. ``attention`` (N, h, w) of
    the global model is shown over its images, with its meaning in a sentence. Only the owner can read the two files.

    Raises:
        DataError: the numbers of cases or classes do not fit together.
    """
    logits = {"global": logits_global, "personal": logits_personal}
    found = {name: values.detach().cpu() for name, values in logits.items() if values is not None}
    labels = labels.detach().cpu()
    _check(found, class_names, labels, case_ids, inputs, attention)
    table = path.with_name(f"{path.stem}_predictions.csv")
    columns = _predictions(found, class_names, labels, case_ids)
    write_csv(table, list(columns), zip(*columns.values(), strict=True), private=True)
    maps = {"global": attention}
    models = [
        _model(name, values, class_names, labels, case_ids, inputs, maps.get(name)) for name, values in found.items()
    ]
    html = page(
        "site.html",
        site=site,
        dataset=dataset,
        count=len(labels),
        class_names=class_names,
        models=models if len(labels) else [],
        confusion=_confusion(found, class_names, labels),
        metrics=PREDICTIONS.of("classification"),
        table=table.name,
        attention_meaning=attention_meaning,
    )
    write_bytes(path, html.encode(), private=True)
    return table


def _check(
    logits: dict[str, Tensor],
    class_names: Sequence[str],
    labels: Tensor,
    case_ids: Sequence[str],
    inputs: Tensor | None,
    attention: Tensor | None,
) -> None:
    count = len(labels)
    if len(case_ids) != count or (inputs is not None and len(inputs) != count):
        got = "no inputs" if inputs is None else f"{len(inputs)} inputs"
        raise DataError(f"site report: expected {count} case ids and inputs, got {len(case_ids)} ids and {got}")
    if attention is not None and (attention.ndim != 3 or len(attention) != count):
        raise DataError(f"site report: expected attention ({count}, h, w), got {tuple(attention.shape)}")
    for name, values in logits.items():
        if tuple(values.shape) != (count, len(class_names)):
            raise DataError(
                f"site report: expected {name} logits of shape {(count, len(class_names))}, got {tuple(values.shape)}"
            )


def _predictions(
    logits: dict[str, Tensor], class_names: Sequence[str], labels: Tensor, case_ids: Sequence[str]
) -> dict[str, list[Any]]:
    """Columns of the csv: case id, true class, and per model its answer and the probability of every class."""
    columns: dict[str, list[Any]] = {"case_id": list(case_ids), "label": [class_names[i] for i in labels.tolist()]}
    for name, values in logits.items():
        columns[f"{name}_answer"] = [class_names[i] for i in values.argmax(dim=1).tolist()]
        probabilities = values.double().softmax(dim=1)
        for index, class_name in enumerate(class_names):
            columns[f"{name}_p_{class_name}"] = probabilities[:, index].tolist()
    return columns


def _model(
    name: str,
    logits: Tensor,
    class_names: Sequence[str],
    labels: Tensor,
    case_ids: Sequence[str],
    inputs: Tensor | None,
    attention: Tensor | None,
) -> dict[str, Any]:
    """Name, metrics and gallery of one model."""
    gallery = {}
    if inputs is not None and inputs.ndim == 4:
        gallery = _gallery(logits, class_names, labels, case_ids, inputs, attention)
    return {
        "name": f"{name} model",
        "metrics": classification_metrics(logits, labels),
        "gallery": gallery,
        "attended": attention is not None,
    }


def _gallery(
    logits: Tensor,
    class_names: Sequence[str],
    labels: Tensor,
    case_ids: Sequence[str],
    inputs: Tensor,
    attention: Tensor | None,
) -> dict[str, list[dict[str, Any]]]:
    """The most confident wrong and right cases, most confident first (then in case order)."""
    confidence, said = logits.double().softmax(dim=1).max(dim=1)
    order = torch.argsort(confidence, descending=True, stable=True).tolist()
    rows: dict[str, list[dict[str, Any]]] = {}
    for title, right in (("Most confidently wrong", False), ("Most confidently right", True)):
        chosen = [index for index in order if bool(said[index] == labels[index]) is right][:GALLERY]
        rows[title] = [
            {
                "case_id": case_ids[index],
                "truth": class_names[int(labels[index])],
                "said": class_names[int(said[index])],
                "probability": float(confidence[index]),
                "image": thumbnail(inputs[index]),
                "attention": None if attention is None else attended(inputs[index], attention[index]),
            }
            for index in chosen
        ]
    return rows


def _confusion(logits: dict[str, Tensor], class_names: Sequence[str], labels: Tensor) -> list[dict[str, Any]]:
    """A matrix for each model: by true class, the cases of each predicted class and their share of the row."""
    found = []
    for name, values in logits.items():
        matrix = torch.zeros(len(class_names), len(class_names), dtype=torch.int64)
        matrix.index_put_((labels, values.argmax(dim=1)), torch.ones_like(labels), accumulate=True)
        shares = (matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)).tolist()
        rows = [
            (true, list(zip(counts, row, strict=True)))
            for true, counts, row in zip(class_names, matrix.tolist(), shares, strict=True)
        ]
        found.append({"model": name, "rows": rows})
    return found if len(labels) else []
