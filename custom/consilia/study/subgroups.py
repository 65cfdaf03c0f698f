"""To which subgroups each test case of a study belongs, by columns of the sites' own tables: sex and age, say.

The columns are read from the sites' data when results are made; predictions carry a digest of the case, and nothing
else of it. What a patient's values are stands in no file of the study.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import AfterValidator

from consilia.core.errors import ConfigError, DataError
from consilia.data.cases import canonical
from consilia.data.problems import Problems
from consilia.data.readers import reader_for
from consilia.data.site import load_site_config
from consilia.data.specs import CommonSpec
from consilia.data.yaml_file import Text

USUAL = ("sex", "gender", "age")
"""Columns that make subgroups where a study names none; upper or lower case."""

LEVELS = 6
"""A column with more different numbers than these is divided by its median."""

MISSING = ("", "?", "NA", "nan")
PREFIX = "group:"
"""Before a column's name, in predictions: the subgroup of each case."""

UNKNOWN = "unknown"


def _ascending(cuts: tuple[float, ...]) -> tuple[float, ...]:
    if not cuts or list(cuts) != sorted(set(cuts)):
        raise ValueError(f"expected cut points in ascending order, got {list(cuts)}")
    return cuts


Division = dict[Text, str] | Annotated[tuple[float, ...], AfterValidator(_ascending)] | None
"""How a column makes subgroups: names of its values, or cut points of a number; None: its values, or its median."""


def attributes_of(federations: Iterable[tuple[str, Mapping[str, Path]]], wanted: Iterable[str] | None) -> pd.DataFrame:
    """A row per case: ``data``, ``site`` (as predictions call it), ``case``, and the text of each column.

    Args:
        federations: name of the data, and each site's site.yaml.
        wanted: columns; None: those of :data:`USUAL`.

    Raises:
        ConfigError: no site has a column that is wanted.
    """
    # Here, because it pulls in torch, which a study file need not wait for.
    from consilia.federation.saved_predictions import digests

    read: dict[str, pd.DataFrame] = {}
    tables, columns = [], set[str]()
    for data, sites in federations:
        for file in sites.values():
            config = load_site_config(file)
            for dataset, spec in config.datasets.items():
                key = spec.content()
                if key not in read:
                    read[key] = _columns(spec, None if wanted is None else list(wanted))
                    columns.update(read[key].columns)
                for site in (config.site, f"{config.site}/{dataset}"):
                    tables.append(read[key].assign(data=data, site=site, case=digests(read[key].index)))
    if missing := [name for name in wanted or () if name not in columns]:
        raise ConfigError(f"study, subgroups: no site's table has a column {missing[0]!r}")
    if not tables or not columns:
        return pd.DataFrame(columns=["data", "site", "case"])
    found = pd.concat(tables, ignore_index=True).drop_duplicates()
    # Two datasets of a site may have different cases of one name: of whom a prediction is, is not known then.
    return found.drop_duplicates(["data", "site", "case"], keep=False)


def _columns(spec: CommonSpec, wanted: Sequence[str] | None) -> pd.DataFrame:
    """The texts of a dataset's columns by case id; missing values are None."""
    none = pd.DataFrame(index=pd.Index([], dtype=str))
    if spec.reader is None:
        return none
    try:
        cases = reader_for(spec).index(Problems())
    except DataError:
        return none  # the runs say why
    named = getattr(spec, "missing", MISSING)
    per_column = getattr(spec, "missing_values", {})
    found = pd.DataFrame(index=pd.Index(cases.ids, dtype=str))
    for column in map(str, cases.rows):
        if column in wanted if wanted is not None else column.lower() in USUAL:
            marks = {canonical(mark) for mark in (*named, *MISSING, *per_column.get(column, ()))}
            texts = [canonical(str(value)) for value in cases.rows[column]]
            found[column] = [None if text in marks else text for text in texts]
    return found


def with_subgroups(
    predictions: pd.DataFrame, attributes: pd.DataFrame, divisions: Mapping[str, Division]
) -> pd.DataFrame:
    """The predictions with a column for each attribute: the name of each case's subgroup.

    Args:
        predictions: of a study, with ``data``, ``site`` and ``case``.
        attributes: as :func:`attributes_of` gives them.
        divisions: how a column is divided, by its name; others by their values or median.
    """
    keys = ["data", "site", "case"]
    columns = [name for name in attributes if name not in keys]
    if predictions.empty or not columns:
        return predictions
    found = predictions[keys].merge(attributes, on=keys, how="left")
    groups = {f"{PREFIX}{name}": pd.Series(None, index=found.index, dtype=object) for name in columns}
    for data, rows in found.groupby("data", sort=False):
        once = rows.drop_duplicates(keys)
        for name in columns:
            if once[name].notna().any():
                named = _named(once[name], divisions.get(name))
                own = rows[name].map(named).fillna(UNKNOWN)
                groups[f"{PREFIX}{name}"][found["data"] == data] = own
    return predictions.assign(**{name: values.to_numpy() for name, values in groups.items()})


def _named(texts: pd.Series, division: Division) -> Mapping[str, str]:
    """The subgroup of every text of one column, of which each case has one; those that are no number have none."""
    values = {text: str(text) for text in texts.dropna()}
    if isinstance(division, dict):
        names = {canonical(text): name for text, name in division.items()}
        return {text: names.get(text, text) for text in values}
    numbers = pd.to_numeric(texts, errors="coerce").dropna()
    if division is None:
        if numbers.nunique() <= LEVELS:
            return values
        division = (float(np.median(numbers)),)
    parsed = {text: pd.to_numeric(text, errors="coerce") for text in values}
    labels = list(_ranges(division))
    return {
        text: labels[int(np.searchsorted(division, number, side="right"))]
        for text, number in parsed.items()
        if np.isfinite(number)
    }


def _ranges(cuts: Sequence[float]) -> Iterator[str]:
    yield f"below {cuts[0]:g}"
    for low, high in pairwise(cuts):
        yield f"{low:g} to below {high:g}"
    yield f"{cuts[-1]:g} or more"
