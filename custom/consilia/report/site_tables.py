"""The tables of a site's own report: metrics with their intervals, recall of each class, who is taken for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from consilia.record.metrics import Unit, show
from consilia.report.site_answers import Answers

AT_THRESHOLD: dict[str, tuple[str, str]] = {
    "sensitivity": ("Sensitivity", "share of the positive cases that are found"),
    "specificity": ("Specificity", "share of the negative cases that are cleared"),
    "ppv": ("Positive predictive value", "share of the positive answers that are right"),
    "npv": ("Negative predictive value", "share of the negative answers that are right"),
    "accuracy": ("Accuracy", "share of right answers"),
    "balanced_accuracy": ("Balanced accuracy", "mean of sensitivity and specificity"),
    "f1": ("F1", "harmonic mean of sensitivity and positive predictive value"),
}
OVER_CLASSES = {
    "sensitivity": ("Sensitivity (recall)", "share of a class that is found"),
    "specificity": ("Specificity", "share of the other classes that is not taken for it"),
    "ppv": ("Positive predictive value", "share of its answers that are right"),
    "npv": ("Negative predictive value", "share of the other answers that are right"),
    "accuracy": ("Accuracy", "share of right answers"),
    "balanced_accuracy": ("Balanced accuracy", "mean recall of the classes"),
    "f1": ("F1", "harmonic mean of recall and positive predictive value"),
}
WHOLE: tuple[tuple[str, str, str, Unit], ...] = (
    ("auroc", "AUROC", "chance that a positive case gets the higher probability of two; 0.5 is guessing", "score"),
    ("auprc", "AUPRC", "area under precision over recall; guessing gives the share of positive cases", "score"),
    ("brier", "Brier score", "mean squared error of the probabilities; lower is better", "score"),
    ("ece", "Calibration error (ECE)", "how far the probabilities are off, on average; lower is better", "score"),
    ("loss", "Loss", "mean cross-entropy; lower is better", "score"),
)

Cell = dict[str, str | None]


def threshold_tables(answers: Answers) -> dict[str, Any]:
    """Metrics of one model at its threshold and at 0.5 (two classes), or of its likeliest class (more)."""
    two = answers.classes == 2
    columns = ["operating", "at_half"] if two and answers.threshold is not None else ["operating"]
    rows = [
        {"heading": heading, "cells": [_cell(answers, column, name) for column in columns]}
        for name, (heading, _) in (AT_THRESHOLD if two else OVER_CLASSES).items()
    ]
    heads = [f"at the threshold, {100 * answers.limit:.3g} %", "at 50 %"] if len(columns) == 2 else ["at 50 %"]
    return {"heads": heads if two else ["likeliest class, mean over the classes"], "rows": rows}


def _cell(answers: Answers, part: str, name: str) -> Cell:
    values: Mapping[str, float | None] = answers.metrics.get(part) or {}
    return {"value": show(values.get(name), "percent"), "range": _range(answers, f"{part}.{name}", "percent")}


def curve_rows(models: Sequence[Answers]) -> list[dict[str, Any]]:
    """Metrics that need no threshold: one row each, one cell per model."""
    return [
        {
            "heading": heading,
            "cells": [{"value": show(one.metrics.get(name), unit), "range": _range(one, name, unit)} for one in models],
        }
        for name, heading, _, unit in WHOLE
    ]


def meanings(classes: int) -> dict[str, str]:
    """What the metrics of both tables are, by their headings."""
    found = dict((AT_THRESHOLD if classes == 2 else OVER_CLASSES).values())
    found |= {heading: meaning for _, heading, meaning, _ in WHOLE}
    if classes > 2:
        found |= {name: f"{found[name]}; each class against the others, then the mean" for name in ("AUROC", "AUPRC")}
    return found


def _range(answers: Answers, name: str, unit: Unit) -> str | None:
    ends = answers.interval(name)
    # Where all cases agree no sample can differ: that is no certainty, and no range.
    if ends is None or ends["low"] == ends["high"]:
        return None
    low, high = (show(ends[end], unit).removesuffix(" %") for end in ("low", "high"))
    return f"{low} to {high}"


def recall_rows(answers: Answers, names: Sequence[str]) -> list[dict[str, Any]]:
    """Of more than two classes each one: cases, found, recall, precision and how often it was the answer."""
    if answers.classes == 2:
        return []
    said = answers.confusion.sum(dim=0).tolist()
    rows = []
    for index, name in enumerate(names):
        found, count = int(answers.confusion[index, index]), int(answers.of_class(index).sum())
        rows.append(
            {
                "name": name,
                "count": count,
                "found": found,
                "recall": found / count if count else None,
                "precision": found / said[index] if said[index] else None,
            }
        )
    return rows


def confusion(answers: Answers, names: Sequence[str]) -> list[tuple[str, list[tuple[int, float]]]]:
    """By true class: the cases of each answer, and their share of the row."""
    matrix = answers.confusion
    shares = (matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)).tolist()
    return [
        (name, list(zip(counts, row, strict=True)))
        for name, counts, row in zip(names, matrix.tolist(), shares, strict=True)
    ]
