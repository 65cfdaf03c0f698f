"""Leaks between the training and test cases of a study, looked for before its first run.

What can only be a mistake refuses the study: a patient in two splits of a site, in the test cases of two folds, or in
training at one site and in test at another; preprocessing whose fitted values depend on other cases than the training
ones. What public data have, and two patients of a table may share by chance, is counted and said: test cases whose
content a training or validation case has, too.

Content is the SHA-256 of a case's raw values as its reader gives them. A file's own would miss an image that was saved
anew, and says nothing of a row of a table; preprocessed inputs of one image differ between sites, where each is scaled
by its own values. Patients are compared within a file: those of two hospitals' own files may have one number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from consilia.core.errors import DataError
from consilia.data.loading import fitted_values
from consilia.data.problems import Problems
from consilia.data.readers import reader_for
from consilia.data.readers.base import Reader
from consilia.data.site import SiteConfig, load_site_config
from consilia.data.specs import CommonSpec
from consilia.data.splits import UNUSED, limit_training, site_splits, splits_file
from consilia.methods.registry import make_method
from consilia.record.study_result import Leak, LeakKind
from consilia.study.federations import Federation
from consilia.study.plan import Planned


@dataclass(frozen=True)
class _Place:
    """A dataset of a site in one federation; ``own_values``: some run prepares a site's inputs by its own values."""

    federation: Federation
    config: SiteConfig
    dataset: str
    own_values: bool

    @property
    def spec(self) -> CommonSpec:
        return self.config.datasets[self.dataset]

    def __str__(self) -> str:
        where = f"site {self.config.site}, dataset {self.dataset}"
        return f"{self.federation.name}, {where}" if self.federation.name else where


def leaks_of(plan: Sequence[Planned]) -> tuple[Leak, ...]:
    """Look at the sites of a plan; how much there is of what refuses no study, by data set and option.

    A site whose data cannot be read is passed over: no run can use it, and the runs say why.

    Raises:
        DataError: patients or preprocessing of test and training cases are not apart; says where, how many, and what
            to do. No patient is named.
    """
    by_content: dict[str, list[_Place]] = {}
    for place in _places(plan):
        by_content.setdefault(place.spec.content(), []).append(place)
    tables = [table for places in by_content.values() for table in _read(places)]
    if not tables:
        return ()
    cases = pd.concat(tables, ignore_index=True)
    cases["source"] = cases["source"].map(_sources(cases["source"].unique()))
    _require_one_site(cases)
    _require_one_fold(cases)
    return tuple(
        leak
        for (data, option), own in cases.groupby(["data", "option"], sort=False)
        for leak in _said(data, option, own)
    )


def _places(plan: Sequence[Planned]) -> Iterator[_Place]:
    """Every dataset with labelled cases that some run of the plan uses, once in each federation."""
    federations: dict[Path, list[Planned]] = {}
    for one in plan:
        if one.config is not None:
            federations.setdefault(one.federation.folder, []).append(one)
    for runs in federations.values():
        configs = [one.config for one in runs if one.config is not None]
        used = {name for own in configs for name in make_method(own.method).datasets() or (own.dataset,)}
        own_values = any(own.preprocessing == "site" for own in configs)
        for file in runs[0].sites.values():
            site = load_site_config(file)
            for dataset, spec in site.datasets.items():
                if dataset in used and spec.reader is not None:
                    yield _Place(runs[0].federation, site, dataset, own_values)


# ---- what a site has -------------------------------------------------------------------------------------------------


def _read(places: Sequence[_Place]) -> Iterator[pd.DataFrame]:
    """A row per case and place, of places with the same data under several splits: they are read once."""
    reader, problems = reader_for(places[0].spec), Problems()
    try:
        cases = reader.index(problems)
        problems.raise_if_any("")
        raw = reader.read(cases, problems)
        problems.raise_if_any("")
    except DataError:
        return
    content = [hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest() for values in raw]
    for place in places:
        spec, federation = place.spec, place.federation
        problems = Problems()
        try:
            # Neither the splits' own overlaps nor a changed order is a problem here: the one is looked for below, and
            # the other refuses every run.
            splits = limit_training(
                cases, site_splits(cases, spec, place.config.dataset_dir(place.dataset), problems, save=False), spec
            )
        except DataError:
            continue
        used = splits != UNUSED
        table = pd.DataFrame(
            {
                "data": federation.data_name,
                "option": federation.option,
                "left_out": federation.left_out or "",
                "folder": str(federation.folder),
                "fold": federation.fold if federation.division == "fold" else -1,
                "site": place.config.site,
                "dataset": place.dataset,
                "test_only": spec.test_only,
                "fitted": spec.fitted_on_test() and place.own_values,
                "source": "\n".join(sorted(_source(file, federation) for file in spec.files())),
                "case": cases.ids,
                "patient": cases.patients,
                "split": splits,
                "content": content,
            }
        )[used]
        _require_one_split(table, place)
        _require_fitted_on_training(reader, raw[used], splits[used], place)
        yield table


def _require_one_split(table: pd.DataFrame, place: _Place) -> None:
    count = int((table.groupby("patient")["split"].nunique() > 1).sum())
    if count:
        file = splits_file(place.spec, place.config.dataset_dir(place.dataset))
        raise DataError(
            f"{place}: {count} patient(s) have cases in more than one split, so that models would be tested on "
            f"patients that they have seen. Give each patient one split in {file}, or correct the column that "
            "`patient` names"
        )


def _require_fitted_on_training(reader: Reader[Any], raw: np.ndarray, splits: np.ndarray, place: _Place) -> None:
    """The values that preprocessing is fitted to stay the same when all other cases are replaced by a training case."""
    train = splits == "train"
    if place.spec.test_only or not place.spec.fits_preprocessing() or not train.any():
        return
    others = raw.copy()
    others[~train] = raw[train][0]
    first, second = (json.dumps(fitted_values(reader, values, splits, place.spec)) for values in (raw, others))
    if first != second:
        raise DataError(
            f"{place}: the values that preprocessing is fitted to depend on validation or test cases. The reader of "
            f"format {place.spec.format} must fit them on the cases that it is given, and nothing else"
        )


# ---- between sites and folds -----------------------------------------------------------------------------------------


def _source(file: Path, federation: Federation) -> str:
    """What a file is called; one that every federation has a copy of, as of embedded data, has one name in all."""
    own, found = federation.base.resolve(), file.resolve()
    return str(found.relative_to(own) if found.is_relative_to(own) else found)


def _sources(files: Iterable[str]) -> dict[str, str]:
    """For each list of files, one a line, the first of all files in which its patients' names mean the same."""
    groups: list[set[str]] = []
    for listed in files:
        own = set(listed.split("\n"))
        shared = [group for group in groups if group & own]
        groups = [group for group in groups if not group & own] + [own.union(*shared)]
    return {listed: min(group) for listed in files for group in groups if listed.split("\n")[0] in group}


def _require_one_site(cases: pd.DataFrame) -> None:
    """No patient is in training or validation at one site, and in test at another."""
    rows = cases[["folder", "source", "patient", "site", "split"]].drop_duplicates()
    tested = rows["split"] == "test"
    both = rows[tested].merge(rows[~tested], on=["folder", "source", "patient"], suffixes=("", "_trained"))
    both = both[both["site"] != both["site_trained"]]
    for (_, source, site, other), found in both.groupby(["folder", "source", "site", "site_trained"], sort=False):
        raise DataError(
            f"{found['patient'].nunique()} patient(s) (or cases, where no patient is named) of {source} are in the "
            f"test cases of site {site} and in training or validation at site {other}: divide the file so that each "
            "patient is at one site (keys `select` and `exclude_patients`)"
        )


def _require_one_fold(cases: pd.DataFrame) -> None:
    """No patient is tested in two folds; at a test-only site all are, as nothing is trained there."""
    tested = cases[(cases["split"] == "test") & (cases["fold"] >= 0) & ~cases["test_only"]]
    keys = ["data", "option", "left_out", "site", "dataset"]
    folds = tested.groupby([*keys, "patient"], sort=False)["fold"].nunique()
    twice = folds[folds > 1]
    if len(twice):
        _, _, _, site, dataset, _ = twice.index[0]
        count = len(twice.xs((site, dataset), level=("site", "dataset")))
        raise DataError(
            f"site {site}, dataset {dataset}: {count} patient(s) are in the test cases of more than one fold, and "
            "would count twice: write the study into a new folder (--out), so that its folds are made anew"
        )


# ---- what is said ----------------------------------------------------------------------------------------------------


def _said(data: str, option: str, cases: pd.DataFrame) -> Iterator[Leak]:
    """What there is of each kind in one data set under one option; every case and patient counts once."""

    def leak(kind: LeakKind, flags: pd.Series) -> Leak:
        return Leak(data=data, option=option, kind=kind, found=int(flags.sum()), of=len(flags))

    tested = cases[(cases["split"] == "test") & ((cases["left_out"] == "") | (cases["left_out"] == cases["site"]))]
    seen: dict[tuple[str, str], set[str]] = {}
    for folder, site, content in _columns(cases[cases["split"] != "test"], "folder", "site", "content"):
        seen.setdefault((folder, content), set()).add(site)
    found = [
        (site, seen.get((folder, content), set()))
        for folder, site, content in _columns(tested, "folder", "site", "content")
    ]
    flags = tested[["source", "dataset", "case", "fitted"]].assign(
        own=[site in sites for site, sites in found], other=[bool(sites - {site}) for site, sites in found]
    )
    by_case = flags.groupby(["source", "dataset", "case"]).any()
    yield leak("own site", by_case["own"])
    yield leak("another site", by_case["other"])
    yield leak("fitted on test", by_case["fitted"])
    # A patient of a pooled data set is at another site in every partition: that is not several.
    sites = cases.groupby(["folder", "source", "patient"])["site"].nunique() > 1
    yield leak("several sites", sites.groupby(["source", "patient"]).any())


def _columns(table: pd.DataFrame, *names: str) -> Iterator[tuple[str, ...]]:
    return zip(*(table[name] for name in names), strict=True)
