"""From a study's predictions, runs and rounds to its result: means, intervals, contrasts, verdicts. Pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from consilia.core.errors import DataError
from consilia.evaluation.bootstrap import RESAMPLES
from consilia.evaluation.rounds import FEWEST_OF_A_CLASS, FEWEST_PATIENTS
from consilia.evaluation.study_metrics import METRICS, OVERALL
from consilia.record.study_result import (
    MODELS,
    VERSIONS,
    WITHOUT_RESULT,
    Cell,
    CurvePoint,
    Model,
    PlannedRun,
    Score,
    Spread,
    StudyResult,
    Version,
    cell_title,
)
from consilia.study.calibration import calibration_of
from consilia.study.cells import CellData, cells_of
from consilia.study.claims import Claim
from consilia.study.contrasts import Evidence, add_evidence, best_of, concerns, contrasts_of, ratios_of
from consilia.study.fairness import gaps_of, members_of, scores_of
from consilia.study.forgetting import forgetting_of
from consilia.study.histories import History

CENTRALISED = "centralised"
RUN = ["data", "option", "method", "fold", "seed"]
SCORED: tuple[Model, ...] = (*MODELS, "balance")


def analyse(
    predictions: pd.DataFrame,
    runs: pd.DataFrame,
    rounds: pd.DataFrame,
    claims: Sequence[Claim],
    *,
    title: str = "",
    histories: Iterable[History] = (),
    reference: str = CENTRALISED,
    seed: int = 0,
    draws: int = RESAMPLES,
) -> StudyResult:
    """Everything that a study's tables and plots show; equal inputs give an equal result.

    Args:
        predictions: a row per test case; see :mod:`consilia.study.cells` for the columns. A patient is one within its
            ``stratum``; draws are within strata. Columns ``group:NAME``: each case's subgroup by an attribute.
        runs: a row per planned run, with the fields of :class:`PlannedRun`. Of a run that is the "same as" another
            and has no predictions, those of the method that its ``reason`` names are taken (its own: of another seed).
        rounds: a row per run, version, model and metric: value (weighted mean over sites) and cumulative bytes.
        claims: written down before the test.
        histories: of runs, which test cases were right after each round.
        reference: the method by which others' metrics are divided.

    Raises:
        DataError: a column is missing, or a case has two predictions of one model.
    """
    planned = _planned(runs)
    filled = _same_as(predictions, planned)
    evidence = [Evidence(claim, planned=_planned_of(claim, planned)) for claim in claims]
    histories = list(histories)
    names = ("cells", "scores", "subgroups", "gaps", "forgetting", "spreads", "best", "ratios", "calibration")
    parts: dict[str, list[Any]] = {name: [] for name in names}
    for cell in cells_of(filled, seed=seed, draws=draws):
        parts["cells"].append(cell.cell)
        scores = list(_scores(cell))
        parts["scores"] += scores
        for groups in members_of(cell):
            parts["subgroups"] += [one.group for one in groups]
            parts["scores"] += [score for one in groups for score in scores_of(one)]
            parts["gaps"] += gaps_of(groups)
        parts["forgetting"] += forgetting_of(cell, histories)
        parts["spreads"] += _spreads(cell.cell, scores)
        parts["best"] += best_of(cell)
        parts["ratios"] += ratios_of(cell, reference)
        parts["calibration"] += calibration_of(cell)
        for one in evidence:
            if concerns(one.claim, cell.cell.data, cell.cell.option):
                add_evidence(one, cell)
    return StudyResult(
        title=title,
        draws=draws,
        seed=seed,
        **{name: tuple(values) for name, values in parts.items()},
        contrasts=tuple(contrasts_of(evidence)),
        runs=tuple(planned),
        curves=tuple(_curves(rounds)),
        notes=tuple(_notes(parts["cells"], planned, len(claims), draws)),
    )


# ---- the plan --------------------------------------------------------------------------------------------------------


def _planned(runs: pd.DataFrame) -> list[PlannedRun]:
    """The rows of ``runs``; what they lack is undefined."""
    return [PlannedRun(**_fields(row)) for row in runs.to_dict("records")]


def _fields(row: dict[Any, Any]) -> dict[str, Any]:
    """Plain values of the fields that a row has."""
    found = {}
    for name, value in row.items():
        if name in PlannedRun.model_fields and not _undefined(value):
            found[str(name)] = value.item() if isinstance(value, np.generic) else value
    if isinstance(rounds := found.get("rounds"), float):
        found["rounds"] = int(rounds)
    return found


def _undefined(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and not np.isfinite(value))


def _planned_of(claim: Claim, planned: Sequence[PlannedRun]) -> int:
    """How many (cell, fold, seed) were planned of both methods of a claim."""
    by_method = [
        {
            (run.data, run.option, run.fold, run.seed)
            for run in planned
            if run.method == method and concerns(claim, run.data, run.option)
        }
        for method in (claim.method, claim.against)
    ]
    return len(by_method[0] & by_method[1])


def _run_key(run: PlannedRun) -> tuple[str, str, str, int, int]:
    return run.data, run.option, run.method, run.fold, run.seed


def _same_as(predictions: pd.DataFrame, planned: Sequence[PlannedRun]) -> pd.DataFrame:
    """The predictions of the runs that have a result, and copies for those that are the same as another."""
    if predictions.empty:
        return predictions
    # A run that failed half-way has no result, whatever it has left.
    undone = {_run_key(run) for run in planned if run.status in WITHOUT_RESULT}
    if undone:
        keys = zip(*(predictions[name] for name in RUN), strict=True)
        predictions = predictions[[key not in undone for key in keys]]
    there = predictions.groupby(RUN, sort=False).groups
    copies = []
    for run in planned:
        key = _run_key(run)
        if run.status != "same as" or key in there:
            continue
        source = run.reason.partition(":")[0].strip() or run.method
        seeds = [run.seed] if source != run.method else sorted(k[4] for k in there if k[:4] == key[:4])
        for seed in seeds[:1]:
            if (origin := (run.data, run.option, source, run.fold, seed)) in there:
                copies.append(predictions.loc[there[origin]].assign(method=run.method, seed=run.seed))
    return pd.concat([predictions, *copies], ignore_index=True) if copies else predictions


# ---- point estimates -------------------------------------------------------------------------------------------------


def _scores(cell: CellData) -> Iterator[Score]:
    """Every metric of every method, version and model, over all sites and at each."""
    support = {site.site: site.patients for site in cell.cell.sites}
    for method in cell.cell.methods:
        for version in VERSIONS:
            for model in SCORED:
                runs = len(cell.runs_of(method, version, model))
                found = cell.values(method, version, model) if runs else {}
                for name in cell.cell.metrics:
                    for site in (OVERALL, *support):
                        if (name, site) in found:
                            yield cell.score(
                                found[name, site], method, version, model, name,
                                site=site, runs=runs, units=support.get(site, 0),
                            )  # fmt: skip


def _spreads(cell: Cell, scores: Iterable[Score]) -> Iterator[Spread]:
    """How unlike the sites are, of every metric that sites have."""
    averaged = {site.site for site in cell.sites if site.averaged}
    by_key: dict[tuple[str, Version, Model, str], dict[str, float]] = {}
    for score in scores:
        if score.site in averaged and score.value is not None:
            key = (score.method, score.version, score.model, score.metric)
            by_key.setdefault(key, {})[score.site] = score.value
    higher = {metric.name: metric.higher_is_better for metric in METRICS[cell.task]}
    for (method, version, model, metric), values in by_key.items():
        choose = max if higher[metric] is False else min
        worst = choose(values, key=lambda site: values[site])
        yield Spread(
            data=cell.data,
            option=cell.option,
            method=method,
            version=version,
            model=model,
            metric=metric,
            worst_site=worst,
            worst=values[worst],
            range=max(values.values()) - min(values.values()),
            sd=statistics.stdev(values.values()) if len(values) > 1 else None,
            sites=len(values),
        )


def _curves(rounds: pd.DataFrame) -> Iterator[CurvePoint]:
    """Means over the runs of every metric after every evaluated round."""
    if rounds.empty:
        return
    keys = ["data", "option", "method", "model", "metric", "version"]
    if missing := [name for name in (*keys, "value") if name not in rounds]:
        raise DataError(f"rounds of a study: the columns {missing} are missing")
    for key, rows in rounds.dropna(subset=["value"]).groupby(keys, sort=False):
        data, option, method, model, metric, version = key
        values = [float(value) for value in rows["value"]]
        traffic = rows["bytes"].mean() if "bytes" in rows else float("nan")
        yield CurvePoint(
            data=data,
            option=option,
            method=method,
            model=model,
            metric=metric,
            version=int(version),
            value=statistics.fmean(values),
            sd=statistics.stdev(values) if len(values) > 1 else None,
            traffic=None if np.isnan(traffic) else float(traffic),
            runs=len(values),
        )


# ---- what to know ----------------------------------------------------------------------------------------------------


def _notes(cells: Sequence[Cell], planned: Sequence[PlannedRun], claims: int, draws: int) -> Iterator[str]:
    """What a reader must know of the numbers."""
    seeds = sorted({len(cell.seeds) for cell in cells})
    yield (
        f"Intervals: 95 %, percentiles of {draws:,} bootstrap draws of patients (with all their cases) within site, "
        "and of training seeds; the methods are compared on the same draws. They cover patients and seeds, not other "
        "hospitals."
    )
    if cells:
        few = "three seeds or fewer carry little" if max(seeds) <= 3 else "few seeds carry little"
        yield f"Training seeds: {' or '.join(map(str, seeds))}; {few}. With one seed an interval is of patients alone."
    yield (
        "Scores compare within a fold and seed only: AUROC and C-index are sums over folds of concordant pairs by sums "
        f"of pairs, at each site. A site with fewer than {FEWEST_PATIENTS} test patients or {FEWEST_OF_A_CLASS} of a "
        "class (over all folds) is shown and not averaged there; pooled metrics have the cases of all sites."
    )
    for cell in cells:
        apart = [site.site for site in cell.sites if not site.averaged]
        if apart:
            yield f"{cell_title(cell.data, cell.option)}: not averaged: {', '.join(apart)}."
    if claims:
        yield (
            f"Claims: {claims}, adjusted by Holm; confirmed: the interval lies above 0 and the adjusted p-value is "
            "below .05; refuted: it lies below 0, or below the claimed effect; equivalent: within the "
            "margin (.01 of AUROC)."
        )
        if claims * 2 / (draws + 1) >= 0.05:
            yield f"With {draws:,} draws no claim of {claims} can be confirmed after Holm: take more draws."
    edges = sorted({(run.data, run.option, run.method) for run in planned if run.edge})
    for data, option, method in edges:
        yield f"{cell_title(data, option)}: the best rate of {method} lies at its grid's end: it may be under-tuned."
    undone = [run for run in planned if run.status in WITHOUT_RESULT]
    if undone:
        yield f"Of {len(planned)} planned runs {len(undone)} have no result; they are listed below."
