"""Disjoint folds of every site's patients: each patient is tested once, in a study of all of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, train_test_split

from consilia.core.determinism import derive_seed
from consilia.core.errors import DataError
from consilia.core.files import write_bytes
from consilia.data.site import SiteConfig, load_site_config, server_data
from consilia.data.specs import DatasetSpec, SplitSpec
from consilia.data.splits import patient_labels
from consilia.simulation.layout import write_layout
from consilia.simulation.pooled import index_cases

VALIDATION = 0.15
"""Share of a fold's other patients who validate."""

Strings = NDArray[np.str_]


def fold_sites(sites: Mapping[str, Path], out: Path, fold: int, folds: int) -> dict[str, Path]:
    """The sites of one fold: the same data in a folder of their own, with a file of this fold's splits.

    A test-only site is the same in every fold.

    Args:
        sites: each one's site.yaml.
        out: for the fold's, ``<site>/site.yaml``.
        fold: from 0 on.
        folds: how many there are.

    Raises:
        DataError: a dataset cannot be divided so; names site and dataset, and what to do.
    """
    configs = {name: load_site_config(path) for name, path in sites.items()}
    first = next(iter(configs.values()))
    own = server_data(sites)
    return write_layout(
        {name: _in_fold(config, out / name, fold, folds) for name, config in configs.items()},
        {} if own is None else dict(load_site_config(own).datasets),
        out,
        first.allow_models,
        first.foundation_models,
    )


def _in_fold(config: SiteConfig, place: Path, fold: int, folds: int) -> dict[str, DatasetSpec]:
    """A site's datasets with the splits of this fold."""
    found = dict(config.datasets)
    for dataset, spec in found.items():
        if not spec.test_only:
            where = f"site {config.site}, dataset {dataset}"
            file = (place / f"{dataset}-splits.csv").absolute()
            text = _splits(spec, where, config.site, fold, folds).to_csv(index=False, lineterminator="\n")
            write_bytes(file, text.encode(), private=True)
            found[dataset] = spec.model_copy(update={"splits": SplitSpec(file=file, seed=spec.splits.seed)})
    return found


def _splits(spec: DatasetSpec, where: str, site: str, fold: int, folds: int) -> pd.DataFrame:
    if spec.official_splits or spec.splits.file is not None:
        raise DataError(f"{where}: folds divide data without splits of their own, these have them: run without folds")
    cases = index_cases(spec, where)
    names, labels, member = patient_labels(cases.patients, cases.labels)
    if len(names) < 2 * folds:
        raise DataError(f"{where}: {len(names)} patient(s) are too few for {folds} folds: expected {2 * folds} or more")
    by_patient = list(fold_splits(labels, folds, derive_seed(0, "folds", site) % 2**32))[fold]
    return pd.DataFrame({"case_id": cases.ids, "patient": names[member], "split": by_patient[member]})


def fold_splits(labels: NDArray[np.int64], folds: int, seed: int) -> Iterator[Strings]:
    """For each fold the split (P,) of every patient, by labels (P,); the test parts are disjoint and cover all."""
    divided = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Of a class with fewer patients than folds some fold has none: the report says so where it matters.
        warnings.filterwarnings("ignore", message="The least populated class")
        parts = list(divided.split(labels, labels if np.bincount(labels).max() >= folds else np.zeros_like(labels)))
    for rest, test in parts:
        split = np.full(len(labels), "train", dtype="<U10")
        split[test] = "test"
        size = max(1, round(VALIDATION * len(rest)))
        counts = np.unique(labels[rest], return_counts=True)[1]
        # Of fewer validation patients than classes, or of a class with one patient, no stratified sample can be taken.
        stratify = labels[rest] if size >= len(counts) and counts.min() >= 2 else None
        split[train_test_split(rest, test_size=size, random_state=seed, stratify=stratify)[1]] = "validation"
        yield split
