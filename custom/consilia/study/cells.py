"""The predictions of one data set under one option, with one set of draws for all methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from consilia.core.errors import DataError
from consilia.evaluation.bootstrap import Array
from consilia.evaluation.decisions import HALF
from consilia.evaluation.paired import Draws, draw
from consilia.evaluation.rounds import enough_for_a_mean
from consilia.evaluation.study_metrics import METRICS, Tested, metric_values
from consilia.record.study_result import MODELS, Cell, Model, Score, Support, Version

KEYS = ("data", "option", "method", "fold", "seed", "version", "model", "site", "patient", "case", "stratum")
NEEDED = {"classification": ("label", "p0", "p1"), "segmentation": ("dice",), "survival": ("time", "event", "risk")}

Run = tuple[int, int]
"""Fold and seed."""
Runs = frozenset[Run]
Found = Mapping[tuple[str, str], Array]
"""By metric and site (or over all), the mean over seeds for each draw (R,)."""


@dataclass(frozen=True)
class CellData:
    """A cell with its predictions; ``values`` computes metrics once for each method, version, model and set of runs."""

    cell: Cell
    frame: pd.DataFrame
    draws: Draws
    found: dict[object, Found] = field(default_factory=dict, repr=False)

    @cached_property
    def runs_by_key(self) -> dict[tuple[str, str, str], Runs]:
        """The runs of every method, version and model."""
        found: dict[tuple[str, str, str], set[Run]] = {}
        keys = self.frame[["method", "version", "model", "fold", "seed"]].drop_duplicates()
        for method, version, model, fold, seed in keys.itertuples(index=False):
            found.setdefault((method, version, model), set()).add((int(fold), int(seed)))
        return {key: frozenset(runs) for key, runs in found.items()}

    @cached_property
    def rows_by_key(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        """The predictions of every method, version and model."""
        return {
            (str(method), str(version), str(model)): rows
            for (method, version, model), rows in self.frame.groupby(["method", "version", "model"], sort=False)
        }

    def runs_of(self, method: str, version: Version, model: Model) -> Runs:
        """The runs of which there are predictions; of the balance, of both models."""
        if model == "balance":
            return self.runs_of(method, version, "global") & self.runs_of(method, version, "personal")
        return self.runs_by_key.get((method, version, model), frozenset())

    def values(self, method: str, version: Version, model: Model, runs: Runs | None = None) -> Found:
        """Metrics by draw, of all runs or of some; empty where there are no predictions."""
        chosen = self.runs_of(method, version, model) if runs is None else runs
        key = (method, version, model, chosen)
        if key not in self.found:
            if model == "balance":
                self.found[key] = self._balance(method, version, chosen)
            else:
                rows = self.tested(method, version, model, chosen)
                self.found[key] = self.metrics_of(rows, model) if len(rows) else {}
        return self.found[key]

    def _balance(self, method: str, version: Version, runs: Runs) -> Found:
        """The mean of both models' metrics; none where a site scores the one model and not the other."""
        whole, own = (self.values(method, version, model, runs) for model in MODELS)
        if {site for _, site in whole} != {site for _, site in own}:
            return {}
        return {key: (whole[key] + own[key]) / 2 for key in whole if key in own}

    def tested(self, method: str, version: Version, model: Model, runs: Runs) -> pd.DataFrame:
        """The predictions of some runs."""
        rows = self.rows_by_key.get((method, version, model))
        if rows is None:
            return self.frame.iloc[:0]
        if runs == self.runs_of(method, version, model):
            return rows
        return rows[[run in runs for run in zip(rows["fold"], rows["seed"], strict=True)]]

    def metrics_of(self, rows: pd.DataFrame, model: str) -> Found:
        """Metrics by draw of some predictions of one method's model."""
        tested = tested_of(rows, self.cell, model)
        blocks = [metric_values(self.cell.task, tested, weights) for weights in self.draws.blocks(len(rows))]
        names = blocks[0].keys()
        return {key: self.draws.over_seeds(np.concatenate([block[key] for block in blocks])) for key in names}

    def score(self, values: Array, method: str, version: Version, model: Model, metric: str, **other: Any) -> Score:
        """A metric by draw (R,) with its interval; ``other`` fields of the score."""
        return Score(
            data=self.cell.data,
            option=self.cell.option,
            method=method,
            version=version,
            model=model,
            metric=metric,
            **self.draws.estimate(values),
            **other,
        )


def cells_of(predictions: pd.DataFrame, *, seed: int, draws: int) -> Iterator[CellData]:
    """The cells of a study in the order of their labels' first appearance.

    Raises:
        DataError: a column is missing, or a case has two predictions of one model.
    """
    if predictions.empty:
        return
    if missing := [name for name in KEYS if name not in predictions]:
        raise DataError(f"predictions of a study: expected the columns {', '.join(KEYS)}; {missing} are missing")
    for (data, option), frame in predictions.groupby(["data", "option"], sort=False):
        # Columns of other tasks and of more classes are empty; all probabilities are where every model diverged.
        present = [
            name for name in frame if frame[name].notna().any() or (name in ("p0", "p1") and "dice" not in frame)
        ]
        yield _cell(str(data), str(option), frame[present], seed, draws)


def _cell(data: str, option: str, frame: pd.DataFrame, seed: int, draws: int) -> CellData:
    task = _task(data, frame)
    unique = ["method", "fold", "seed", "version", "model", "site", "case"]
    if (twice := frame.duplicated(unique)).any():
        first = frame[twice].iloc[0]
        raise DataError(
            f"predictions of {data}: a case has one prediction of each model, got two of case {first['case']} at site "
            f"{first['site']} by {first['method']}, fold {first['fold']}, seed {first['seed']}"
        )
    people = frame[["stratum", "patient"]].astype(str)
    units = people.drop_duplicates().sort_values(["stratum", "patient"], ignore_index=True)
    numbers = pd.Series(np.arange(len(units)), index=pd.MultiIndex.from_frame(units))
    seeds = sorted({int(value) for value in frame["seed"]})
    frame = frame.assign(
        unit=numbers.loc[pd.MultiIndex.from_frame(people)].to_numpy(),
        seed_place=frame["seed"].map({value: place for place, value in enumerate(seeds)}),
    )
    sites = tuple(support_of(str(site), rows, task) for site, rows in frame.groupby("site"))
    once = frame.drop_duplicates(["unit", "case"])
    cell = Cell(
        data=data,
        option=option,
        task=task,
        metrics=tuple(metric.name for metric in METRICS[task]),
        methods=tuple(str(name) for name in frame["method"].drop_duplicates()),
        folds=tuple(sorted({int(value) for value in frame["fold"]})),
        seeds=tuple(seeds),
        patients=len(units),
        cases=len(once),
        of_each=_of_each(once, task),
        sites=sites,
    )
    # Options of one data set have the same patients: the same are drawn, or a mean over options would look too sure.
    drawn = draw(units["stratum"].tolist(), len(seeds), seed=seed, purpose=f"{data}/", draws=draws)
    return CellData(cell, frame, drawn)


def _task(data: str, frame: pd.DataFrame) -> str:
    """The task whose columns there are."""
    for task, names in NEEDED.items():
        if all(name in frame for name in names):
            return task
    raise DataError(
        f"predictions of {data}: expected the columns label, p0, p1, ... or dice or time, event, risk; got "
        f"{', '.join(map(str, frame.columns))}"
    )


def support_of(site: str, rows: pd.DataFrame, task: str) -> Support:
    """The test cases of a site; each counts once, whatever the number of methods, seeds, and partitions it is in."""
    cases = rows.drop_duplicates(["unit", "case"])
    patients = cases["unit"].nunique()
    of_each = _of_each(cases, task)
    enough = enough_for_a_mean(patients, of_each, task)
    return Support(site=site, patients=patients, cases=len(cases), of_each=of_each, averaged=enough)


def _of_each(cases: pd.DataFrame, task: str) -> tuple[int, ...]:
    """Cases by class, or without and with an event."""
    if task == "classification":
        classes = sum(str(name).startswith("p") and str(name)[1:].isdigit() for name in cases)
        return tuple(int((cases["label"] == k).sum()) for k in range(classes))
    if task == "survival":
        return tuple(int((cases["event"].astype(bool) == had).sum()) for had in (False, True))
    return ()


def tested_of(rows: pd.DataFrame, cell: Cell, model: str) -> Tested:
    """Predictions of one method's model as arrays."""
    names = tuple(site.site for site in cell.sites)
    columns: dict[str, Array] = {}
    if cell.task == "classification":
        classes = len(cell.sites[0].of_each)
        columns["label"] = rows["label"].to_numpy(dtype=np.float64)
        columns["probability"] = rows[[f"p{k}" for k in range(classes)]].to_numpy(dtype=np.float64)
        threshold = rows["threshold"].fillna(HALF) if "threshold" in rows else np.full(len(rows), HALF)
        columns["threshold"] = np.asarray(threshold, dtype=np.float64)
    else:
        for name in (*NEEDED[cell.task], "hd95"):
            if name in rows:
                columns[name] = rows[name].to_numpy(dtype=np.float64)
    return Tested(
        patient=rows["unit"].to_numpy(dtype=np.int64),
        seed=rows["seed_place"].to_numpy(dtype=np.int64),
        fold=rows["fold"].to_numpy(dtype=np.int64),
        site=rows["site"].astype(str).map({site: place for place, site in enumerate(names)}).to_numpy(dtype=np.int64),
        sites=names,
        averaged=tuple(site.averaged for site in cell.sites),
        patients=tuple(site.patients for site in cell.sites),
        seeds=len(cell.seeds),
        personal=model == "personal",
        columns=columns,
    )
