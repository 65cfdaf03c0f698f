"""How far a study's probabilities can be believed: every method's reliability, over all test cases and at each site."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from consilia.evaluation.calibration import confidences, reliability
from consilia.record.split_metrics import ReliabilityBin
from consilia.record.study_result import MODELS
from consilia.record.study_unseen import Calibration
from consilia.study.cells import CellData, tested_of


def calibration_of(cell: CellData) -> Iterator[Calibration]:
    """The bins of a classification's methods after the last round; predictions of all seeds and folds count.

    Nothing of a model that has given a probability which is not finite.
    """
    if cell.cell.task != "classification":
        return
    for method in cell.cell.methods:
        for model in MODELS:
            rows = cell.rows_by_key.get((method, "last", model))
            if rows is None:
                continue
            for site in ("", *sorted(rows["site"].astype(str).unique())):
                own = rows[rows["site"].astype(str) == site] if site else rows
                if bins := _bins(cell, own, model):
                    yield Calibration(
                        data=cell.cell.data, option=cell.cell.option, method=method, model=model, site=site, bins=bins
                    )


def _bins(cell: CellData, rows: pd.DataFrame, model: str) -> tuple[ReliabilityBin, ...]:
    columns = tested_of(rows, cell.cell, model).columns
    probability, label = columns["probability"], columns["label"].astype(np.int64)
    if not np.isfinite(probability).all():
        return ()
    return tuple(ReliabilityBin.model_validate(found) for found in reliability(*confidences(probability, label)))
