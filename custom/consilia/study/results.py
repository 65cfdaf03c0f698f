"""What the runs of a study gave, as tables: predictions on test cases, runs, and metrics by round.

They are the arguments of :func:`consilia.study.analysis.analyse`, which says what their rows are;
:mod:`consilia.study.cells` has the columns of predictions. The first five columns of each table name the run.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from consilia.data.site import load_site_config
from consilia.evaluation.rounds import (
    evaluations,
    patients_of,
    scored_sites,
    split_metrics,
    training_sites,
    value_of,
    weighted_mean,
)
from consilia.federation.saved_predictions import predictions_file, read_predictions
from consilia.record.schema import FinalModels, Record
from consilia.record.study_result import MODELS, VERSIONS
from consilia.study.outcome import read_cost
from consilia.study.plan import Planned
from consilia.study.study import LABELS_SEEN

BY_ROUND = {"classification": ("accuracy", "auroc", "loss"), "segmentation": ("dice",), "survival": ("c_index",)}
"""Metrics whose course over the rounds is shown."""


def predictions_of(plan: Sequence[Planned]) -> pd.DataFrame:
    """A row per test case, model, chosen version and run.

    Of runs that left out a site there are the predictions at that site alone, and the site counts as a fold: another
    model tests each. Where the data have a test-only site the global model is judged there alone.
    """
    folds = folds_of(plan)
    frames = [
        frame.assign(**run_columns(one, folds))
        for one in plan
        if one.record is not None and one.config is not None
        for frame in _of_run(one, one.record)
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _of_run(one: Planned, record: Record) -> Iterator[pd.DataFrame]:
    assert one.config is not None
    sites = [one.federation.left_out] if one.federation.left_out else sorted(one.sites)
    judged = scored_sites(record)
    for site in sites:
        settings = load_site_config(one.sites[site])
        once = record.final["best"].version == record.final["last"].version
        for version in VERSIONS:
            file = predictions_file(settings, one.config.run_id, version)
            if once and not file.is_file():
                # The last round is the best one, and was judged once.
                file = predictions_file(settings, one.config.run_id, "last")
            if file.is_file():
                # A patient of a pooled data set is at another site in every partition.
                stratum = "" if one.federation.division == "partition" and not _test_only(record, site) else site
                found = read_predictions(file)
                if site not in judged:
                    found = found[found["model"] != "global"]
                names = found["dataset"].unique()
                where = site if len(names) < 2 else site + "/" + found["dataset"]
                threshold = found["model"].map(_thresholds(record.final[version], site)).astype(float)
                own = found.drop(columns="dataset")
                yield own.assign(version=version, site=where, stratum=stratum, threshold=threshold)


def _thresholds(models: FinalModels, site: str) -> dict[str, float | None]:
    """At what each model's cases count as class 1, by validation cases; None: they choose none."""
    own = models.personal.get(site)
    return {"global": models.threshold, "personal": getattr(own and own.validation, "threshold", None)}


def _test_only(record: Record, site: str) -> bool:
    return site in record.sites and record.sites[site].test_only


def run_columns(one: Planned, folds: Mapping[Path, int]) -> dict[str, Any]:
    """The columns that name a run in every table."""
    return {
        "data": one.federation.data_name,
        "option": one.federation.option,
        "method": one.label,
        "fold": folds[one.federation.folder],
        "seed": one.seed,
    }


def folds_of(plan: Sequence[Planned]) -> dict[Path, int]:
    """The number of each federation's fold: its own, or that of the site that was left out."""
    sites = list(dict.fromkeys(one.federation.left_out for one in plan))
    return {one.federation.folder: one.federation.fold + 1000 * sites.index(one.federation.left_out) for one in plan}


def runs_of(plan: Sequence[Planned], command: Sequence[str]) -> pd.DataFrame:
    """A row per planned run; ``command`` runs the study, and with more words one of its labels."""
    folds = folds_of(plan)
    return pd.DataFrame([{**run_columns(one, folds), **_row(one, command)} for one in plan])


def _row(one: Planned, command: Sequence[str]) -> dict[str, Any]:
    cost = read_cost(one.folder)
    return {
        "status": one.status,
        "reason": one.reason,
        "command": shlex.join([*command, "--only", one.label]),
        "seconds": cost.seconds,
        "core_seconds": cost.core_seconds,
        "rounds": one.record.run.rounds_done if one.record else 0,
        **dict(zip(("bytes_up", "bytes_down"), _bytes(one.record), strict=True)),
        "saw": LABELS_SEEN.get(one.baseline or "", LABELS_SEEN[""]),
        "rate": one.rate,
        "edge": one.edge,
        "left_out": one.federation.left_out or "",
        "where": one.federation.within if one.federation.left_out else "",
        "prepared": _prepared(one),
    }


def _prepared(one: Planned) -> str:
    """What the inputs of the site that was left out were prepared with."""
    if one.federation.left_out is None or one.config is None:
        return ""
    datasets = load_site_config(one.sites[one.federation.left_out]).datasets.values()
    if not any(spec.fits_preprocessing() for spec in datasets):
        return "fixed values of its site.yaml"
    if one.config.preprocessing == "pooled":
        return "mean and deviation of the training sites' pooled cases"
    return "values fitted on its own inputs, without labels"


def _bytes(record: Record | None) -> tuple[float, float]:
    """Sent up and down by a site, in the mean over the training sites."""
    if record is None or not (trained := training_sites(record)):
        return 0.0, 0.0
    up, down = (
        sum(sum(getattr(item, key).get(site, 0) for site in trained) for item in record.rounds) / len(trained)
        for key in ("bytes_up", "bytes_down")
    )
    return up, down


def rounds_of(plan: Sequence[Planned]) -> pd.DataFrame:
    """A row per evaluated version, model, metric and run: the mean over sites by test patients, and bytes so far."""
    folds = folds_of(plan)
    rows = [
        {**run_columns(one, folds), **found}
        for one in plan
        if one.record is not None
        for found in _by_round(one.record)
    ]
    return pd.DataFrame(rows)


def _by_round(record: Record) -> Iterator[dict[str, Any]]:
    sent = {item.round: sum(item.bytes_up.values()) + sum(item.bytes_down.values()) for item in record.rounds}
    count = max(1, len(training_sites(record)))
    for model in MODELS:
        sites = scored_sites(record) if model == "global" else training_sites(record)
        for version, by_site in evaluations(record, model).items():
            tested = split_metrics(by_site, sites)
            bytes_so_far = sum(size for number, size in sent.items() if number <= version) / count
            for name in BY_ROUND[record.run.task]:
                pairs = [
                    (value, patients_of(part))
                    for part in tested.values()
                    if (value := value_of(part, name)) is not None
                ]
                if (mean := weighted_mean(pairs)) is not None:
                    yield {"version": version, "model": model, "metric": name, "value": mean, "bytes": bytes_so_far}
