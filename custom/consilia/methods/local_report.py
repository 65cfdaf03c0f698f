"""Hands what a site knows of its own test cases to the report of its task; the report never leaves the site."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from consilia.data.dataset import SiteData
from consilia.methods.tasks.base import Predictions
from consilia.methods.tasks.classification import LOGITS
from consilia.report.site_report import write_site_report
from consilia.report.site_segmentation import write_segmentation_report


def write_local_report(
    path: Path, data: SiteData, predictions: Mapping[str, Predictions], attention: Tensor | None, meaning: str
) -> None:
    """Write the report on the test cases.

    Args:
        path: the HTML file; a table of all cases goes beside it.
        data: the site's data.
        predictions: of the ``global`` and the ``personal`` model.
        attention: the method's map (N, h, w) of each test case, if it has one.
        meaning: what the map shows, in a sentence.
    """
    test = data.test
    if data.task == "segmentation":
        write_segmentation_report(
            path,
            site=data.site,
            dataset=data.name,
            structure=data.class_names[1],
            predictions=predictions,
            masks=test.labels,
            case_ids=test.case_ids,
            inputs=test.inputs,
            spacing=test.spacing,
            attention=attention,
            attention_meaning=meaning,
        )
        return
    write_site_report(
        path,
        site=data.site,
        dataset=data.name,
        class_names=data.class_names,
        logits_global=predictions["global"][LOGITS],
        logits_personal=predictions["personal"][LOGITS],
        labels=test.labels,
        case_ids=test.case_ids,
        inputs=test.inputs,
        attention=attention,
        attention_meaning=meaning,
    )
