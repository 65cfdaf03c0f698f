"""Which test cases the models of a run had right after each round: what a study's forgetting is formed from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consilia.data.site import load_site_config
from consilia.evaluation.rounds import evaluations, scored_sites, training_sites
from consilia.federation.saved_predictions import predictions_file, read_predictions
from consilia.federation.site_store import read_history
from consilia.record.study_result import MODELS, Kind
from consilia.study.plan import Planned
from consilia.study.results import folds_of, run_columns


@dataclass(frozen=True)
class SiteHistory:
    """One site's test cases (N): digests of patients, labels, and by model and version which were right (N,) bool."""

    patients: tuple[str, ...]
    labels: NDArray[np.int64]
    correct: Mapping[Kind, Mapping[int, NDArray[np.bool_]]]


@dataclass(frozen=True)
class History:
    """One run of a study.

    Attributes:
        classes: names.
        scored: the sites whose cases judge the global model.
        trained: the sites that train.
        updated: by round, the sites whose update was accepted.
        sites: by name; those without a history are missing.
    """

    data: str
    option: str
    method: str
    fold: int
    seed: int
    classes: tuple[str, ...]
    scored: tuple[str, ...]
    trained: tuple[str, ...]
    updated: Mapping[int, Sequence[str]]
    sites: Mapping[str, SiteHistory]


def histories_of(plan: Sequence[Planned]) -> Iterator[History]:
    """Of every run with federated rounds of a classification whose sites have saved what was right in each of them."""
    folds = folds_of(plan)
    for one in plan:
        record, config = one.record, one.config
        if record is None or config is None or not record.rounds or record.run.task != "classification":
            continue
        sites = {name: found for name in one.sites if (found := _of_site(one, name)) is not None}
        if sites:
            yield History(
                **run_columns(one, folds),
                classes=tuple(record.class_names),
                scored=tuple(scored_sites(record)),
                trained=tuple(training_sites(record)),
                updated={part.round: list(part.contributions) for part in record.rounds},
                sites=sites,
            )


def _of_site(one: Planned, name: str) -> SiteHistory | None:
    """None where anything is missing: of several datasets, or of a run whose site has saved its newest rounds only."""
    assert one.record is not None
    assert one.config is not None
    settings = load_site_config(one.sites[name])
    file = predictions_file(settings, one.config.run_id, "last")
    if not file.is_file():
        return None
    found = read_history(file.parent)
    correct = {}
    for kind in MODELS:
        versions = [version for version, sites in evaluations(one.record, kind).items() if name in sites]
        if any(version not in found.get(kind, {}) for version in versions):
            return None
        correct[kind] = {version: found[kind][version].numpy() for version in versions}
    rows = read_predictions(file)
    rows = rows[rows["model"] == rows["model"].iloc[0]]
    if any(len(each) != len(rows) for own in correct.values() for each in own.values()):
        return None
    return SiteHistory(tuple(rows["patient"]), rows["label"].to_numpy(dtype=np.int64), correct)
