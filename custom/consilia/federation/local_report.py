"""Hands what a site knows of its own test cases to the report of its task; the report never leaves the site."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from consilia.data.dataset import SiteData
from consilia.data.tasked import TaskedData
from consilia.methods.classification import LOGITS
from consilia.methods.fedkim.catalogue import Catalogue
from consilia.methods.task import Answers
from consilia.report.answers_page import closed_example, write_answers
from consilia.report.pictures import picture
from consilia.report.site_report import write_site_report
from consilia.report.site_segmentation import write_segmentation_report

EXAMPLES = 6
"""Test cases of each task that a site with several tasks shows."""


def write_task_examples(path: Path, data: TaskedData, answers: Answers, catalogue: Catalogue) -> None:
    """Write the first test cases of every task with the answers of the global extractor (logits by task)."""
    shown = []
    for name, own in sorted(data.tasks.items()):
        task = catalogue.tasks[name]
        for place, row in enumerate(answers[name][:EXAMPLES].double().softmax(dim=1)):
            truth = task.answers[int(own.test.labels[place])]
            likely = dict(zip(task.answers, row.tolist(), strict=True))
            example = closed_example(name, task.modalities, task.question, truth, likely)
            shown.append({**example, "picture": picture(own.test.inputs[place])})
    write_answers(path, shown)


def write_local_report(path: Path, data: SiteData, answers: Mapping[str, Answers], attention: Tensor | None) -> None:
    """Write the report on the test cases.

    Args:
        path: the HTML file; a table of all cases goes beside it.
        data: the site's data.
        answers: of the ``global`` and the ``personal`` model.
        attention: the method's map (N, h, w) of each test case, if it has one.
    """
    test = data.test
    if data.task == "segmentation":
        write_segmentation_report(
            path,
            site=data.site,
            role=data.role,
            structure=data.class_names[1],
            predictions=answers,
            masks=test.labels,
            case_ids=test.case_ids,
            inputs=test.inputs,
            spacing=test.spacing,
            attention=attention,
        )
        return
    write_site_report(
        path,
        site=data.site,
        role=data.role,
        class_names=data.class_names,
        logits_global=answers["global"][LOGITS],
        logits_personal=answers["personal"][LOGITS],
        labels=test.labels,
        case_ids=test.case_ids,
        inputs=test.inputs,
        attention=attention,
    )
