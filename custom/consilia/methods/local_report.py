"""Hands what a site knows of its own test cases to the report of its task; the report never leaves the site."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from consilia.data.dataset import SiteData
from consilia.methods.tasks.base import Predictions
from consilia.methods.tasks.classification import LOGITS
from consilia.methods.tasks.segmentation import shown_boxes
from consilia.methods.tasks.survival import LOG_HAZARDS
from consilia.report.site_report import ABOUT, write_site_report
from consilia.report.site_segmentation import write_segmentation_report
from consilia.report.site_survival import write_survival_report


def write_local_report(
    path: Path,
    data: SiteData,
    predictions: Mapping[str, Predictions],
    *,
    thresholds: Mapping[str, float | None] | None = None,
    attention: Tensor | None = None,
    meaning: str = "",
    about: str = ABOUT,
    table_only: bool = False,
) -> Path:
    """Write the report on the test cases, and a table of all cases beside it; returns the table's path.

    Args:
        path: the HTML file.
        data: the site's data, of one dataset.
        predictions: on its test cases, by model: ``global``, ``personal``, ``local-only``, or any other name. The
            others are held against the first.
        thresholds: of a classification in two classes, by model; None: 0.5.
        attention: the method's map (N, h, w) of each test case, if it has one.
        meaning: what the map shows, in a sentence.
        about: which cases these are, in a sentence.
        table_only: leave out the page.
    """
    test = data.test
    if data.task == "segmentation":
        return write_segmentation_report(
            path,
            site=data.site,
            dataset=data.name,
            structure=data.class_names[1],
            predictions=predictions,
            boxes=shown_boxes(test.labels, test.case_ids) if len(test) else {},
            test=test,
            attention=attention,
            attention_meaning=meaning,
            about=about,
            table_only=table_only,
        )
    if data.task == "survival":
        return write_survival_report(
            path,
            site=data.site,
            dataset=data.name,
            event=data.class_names[1],
            log_hazards={name: found[LOG_HAZARDS] for name, found in predictions.items()},
            test=test,
            about=about,
            table_only=table_only,
        )
    return write_site_report(
        path,
        site=data.site,
        dataset=data.name,
        class_names=data.class_names,
        models={name: found[LOGITS] for name, found in predictions.items()},
        test=test,
        thresholds=thresholds,
        attention=attention,
        attention_meaning=meaning,
        about=about,
        table_only=table_only,
    )
