"""A site's own report about its own patients. It is written at the site, for the site, and never leaves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from consilia.core.errors import DataError
from consilia.core.files import write_bytes, write_csv
from consilia.data.dataset import Split
from consilia.report import site_words
from consilia.report.html import page
from consilia.report.pictures import attended, thumbnail
from consilia.report.site_answers import NO_ANSWER, Answers, named_patients, patients_of
from consilia.report.site_tables import confusion, curve_rows, meanings, recall_rows, threshold_tables

GALLERY = 6
"""Cases in each group of the gallery."""

ABOUT = "Test cases of this site, which no model was trained on."

Case = dict[str, Any]


def write_site_report(
    path: Path,
    *,
    site: str,
    dataset: str,
    class_names: Sequence[str],
    models: Mapping[str, Tensor],
    test: Split,
    thresholds: Mapping[str, float | None] | None = None,
    attention: Tensor | None = None,
    attention_meaning: str = "",
    about: str = ABOUT,
    table_only: bool = False,
) -> Path:
    """Write the report to ``path`` and the predictions to ``<stem>_predictions.csv`` beside it; returns the latter.

    Only the owner can read the two files.

    Args:
        path: the HTML file.
        site: its name.
        dataset: its name.
        class_names: of the C classes; the second of two is the positive one.
        models: logits (N, C) by model; ``global``, ``personal``, ``local-only`` and ``centralised`` are explained,
            every other name is shown as it is. The others are held against the first.
        test: the N cases. Images (N, c, H, W) get a gallery, anything else a list.
        thresholds: of two classes, by model: the probability of the positive class above which it is the answer;
            None: 0.5.
        attention: (N, h, w) of the first model, shown over its images.
        attention_meaning: what it shows, in a sentence.
        about: which cases these are, in a sentence.
        table_only: leave out the page, whose plots take a second.

    Raises:
        DataError: the numbers of cases or classes do not fit together.
    """
    _check(models, class_names, test, attention)
    labels = test.labels.detach().cpu()
    answers = [
        Answers(name, logits.detach().cpu(), labels, named_patients(test), (thresholds or {}).get(name))
        for name, logits in models.items()
    ]
    table = path.with_name(f"{path.stem}_predictions.csv")
    columns = _predictions(answers, class_names, test)
    write_csv(table, list(columns), zip(*columns.values(), strict=True), private=True)
    if table_only:
        return table
    values = _page_values(answers, class_names, test, attention) if answers and len(labels) else {"models": []}
    html = page(
        "site.html",
        site=site,
        dataset=dataset,
        class_names=class_names,
        table=table.name,
        attention_meaning=attention_meaning,
        about=about,
        **values,
    )
    write_bytes(path, html.encode(), private=True)
    return table


def _check(models: Mapping[str, Tensor], class_names: Sequence[str], test: Split, attention: Tensor | None) -> None:
    count = len(test)
    if attention is not None and (attention.ndim != 3 or len(attention) != count):
        raise DataError(f"site report: expected attention ({count}, h, w), got {tuple(attention.shape)}")
    for name, logits in models.items():
        if tuple(logits.shape) != (count, len(class_names)):
            raise DataError(
                f"site report: expected {name} logits of shape {(count, len(class_names))}, got {tuple(logits.shape)}"
            )


def _page_values(answers: list[Answers], names: Sequence[str], test: Split, attention: Tensor | None) -> dict[str, Any]:
    # Here, because it pulls in matplotlib, which the command line should not wait for.
    from consilia.report import site_plots

    labels, every = answers[0].labels, torch.ones(len(test), dtype=torch.bool)
    return {
        "count": len(test),
        "patients": patients_of(named_patients(test), every),
        "support": list(zip(names, torch.bincount(labels, minlength=len(names)).tolist(), strict=True)),
        "cautions": site_words.cautions(labels, named_patients(test), names),
        "models": [
            {
                "name": one.name,
                "title": site_words.title(one.name),
                "explained": site_words.EXPLAINED.get(one.name, ""),
                "rule": site_words.rule(one, names),
                "findings": site_words.findings(one, names),
                "unanswered": int((one.answers == NO_ANSWER).sum()),
                "thresholds": threshold_tables(one),
                "recalls": recall_rows(one, names),
                "confusion": confusion(one, names),
                "gallery": _gallery(one, names, test, attention if place == 0 else None),
                "attended": attention is not None and place == 0,
            }
            for place, one in enumerate(answers)
        ],
        "beside": [site_words.beside(answers[0], other, names) for other in answers[1:]],
        "curves": curve_rows(answers),
        "meanings": meanings(len(names)),
        "roc": site_plots.roc(answers),
        "reliability": site_plots.reliability(answers),
        "images": test.inputs.ndim == 4,
    }


def _predictions(answers: Sequence[Answers], names: Sequence[str], test: Split) -> dict[str, list[Any]]:
    """Columns of the csv: case id, patient where known, true class, and per model what it says.

    That is its likeliest class; of two classes also its answer at the model's threshold; and every class's probability.
    """
    columns: dict[str, list[Any]] = {"case_id": list(test.case_ids)}
    if test.patients:
        columns["patient"] = list(test.patients)
    columns["label"] = [names[i] for i in test.labels.tolist()]
    for one in answers:
        columns[f"{one.name}_answer"] = _named(one.likeliest, names)
        if one.classes == 2:
            columns[f"{one.name}_answer_at_threshold"] = _named(one.answers, names)
        for index, name in enumerate(names):
            columns[f"{one.name}_p_{name}"] = one.probabilities[:, index].tolist()
    return columns


def _named(answers: Tensor, names: Sequence[str]) -> list[str]:
    return ["" if index == NO_ANSWER else names[index] for index in answers.tolist()]


def _gallery(one: Answers, names: Sequence[str], test: Split, attention: Tensor | None) -> dict[str, list[Case]]:
    """Wrong and right cases, the surest first (then in case order); of two classes the wrong ones by kind."""
    wrong = (one.answers != one.labels) & one.finite
    groups = {f"Right: the surest of {int(one.right.sum())}": one.right}
    if one.classes == 2:
        missed, alarms = wrong & one.of_class(1), wrong & one.of_class(0)
        groups = {
            f"Missed: {names[1]} cases taken for {names[0]}": missed,
            f"False alarms: {names[0]} cases taken for {names[1]}": alarms,
        } | groups
    else:
        groups = {"Wrong": wrong} | groups
    certainty = one.probabilities.nan_to_num().gather(1, one.answers.clamp(min=0)[:, None])[:, 0]
    order = torch.argsort(certainty, descending=True, stable=True).tolist()
    images = test.inputs.ndim == 4
    # Where every case is a patient of its own, its name once is enough.
    patients = named_patients(test)
    return {
        title: [
            {
                "case_id": test.case_ids[index],
                "patient": patients[index] if patients else None,
                "truth": names[int(one.labels[index])],
                "said": names[int(one.answers[index])],
                "probability": float(certainty[index]),
                "image": thumbnail(test.inputs[index]) if images else None,
                "attention": attended(test.inputs[index], attention[index])
                if images and attention is not None
                else None,
            }
            for index in [index for index in order if group[index]][:GALLERY]
        ]
        for title, group in groups.items()
    }
