"""Long parquet tables of irregularly observed features: the first steps of each case, filled and standardised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from consilia.core.errors import DataError
from consilia.data.cases import Cases, canonical, index_cases, read_table, require_columns, require_file
from consilia.data.moments import Moments, moments
from consilia.data.problems import Problems
from consilia.data.readers.base import Fitted, Reader, fit_standard
from consilia.data.specs import TimeseriesSpec

# A feature seen twice in training has a tiny spread, and the next value of it would be a hundred deviations out.
LIMIT = 10.0


class TimeseriesReader(Reader[TimeseriesSpec]):
    """Raw values (N, steps, features) float64, NaN where not observed; inputs filled forward in time, then with the
    training mean (0 after standardising), and kept within LIMIT standard deviations.

    A case with more rows is cut to its first ``steps``; one with fewer is continued with its last values.
    """

    def index(self, problems: Problems) -> Cases:
        spec = self.spec
        outcomes = _parquet(spec.outcomes, [spec.id, spec.label.column])
        table = self._one_row_per_case(outcomes, problems)
        table["row#"] = np.arange(1, len(table) + 1)
        if spec.cases is not None:
            table = self._join(table, problems)
        by = spec.select.column if spec.select else None
        require_columns(spec.cases or spec.outcomes, list(table), [spec.patient, by])
        return index_cases(table, list(table[spec.id]), spec, spec.outcomes, problems)

    def _one_row_per_case(self, outcomes: pd.DataFrame, problems: Problems) -> pd.DataFrame:
        spec, label = self.spec, self.spec.label
        texts = outcomes.astype(str)
        distinct = texts.drop_duplicates([spec.id, label.column])
        if spec.any_row is not None:
            # Rows of the named class first, so that the first row of a case decides.
            mapping = {canonical(text): name for text, name in (label.mapping or {}).items()}
            last = distinct[label.column].map(lambda text: mapping.get(canonical(text), text)) != spec.any_row
            distinct = distinct.assign(last=last).sort_values([spec.id, "last"], kind="stable").drop(columns="last")
        else:
            for case in distinct.loc[distinct.duplicated(spec.id), spec.id].unique():
                problems.add(f"{spec.outcomes}: case {case}: its rows disagree on {label.column!r}; see any_row")
        return distinct.drop_duplicates(spec.id).sort_values(spec.id).reset_index(drop=True)

    def _join(self, table: pd.DataFrame, problems: Problems) -> pd.DataFrame:
        spec = self.spec
        if spec.cases is None:
            return table
        joined = read_table(spec.cases).drop(columns="row#")
        require_columns(spec.cases, list(joined), [spec.id])
        for case in joined.loc[joined.duplicated(spec.id), spec.id].unique():
            problems.add(f"{spec.cases}: {spec.id} {case} has several rows, expected one")
        joined = joined.drop_duplicates(spec.id).drop(columns=[spec.label.column], errors="ignore")
        for case in sorted(set(table[spec.id]) - set(joined[spec.id])):
            problems.add(f"{spec.cases}: no row for case {case} of {spec.outcomes.name}")
        return table.merge(joined, on=spec.id, how="left").fillna("")

    def read(self, cases: Cases, problems: Problems) -> np.ndarray:
        found, raw = self._values(self.spec.values, problems)
        position = {case: i for i, case in enumerate(found)}
        for case in cases.ids:
            if case not in position:
                problems.add(f"{self.spec.values}: no row for case {case} of {self.spec.outcomes.name}")
        empty = np.full((1, *raw.shape[1:]), np.nan)
        return np.concatenate([raw, empty])[[position.get(case, len(found)) for case in cases.ids]]

    def read_new(self, source: Path, problems: Problems) -> tuple[list[str], np.ndarray]:
        return self._values(source, problems)

    def _values(self, file: Path, problems: Problems) -> tuple[list[str], np.ndarray]:
        spec = self.spec
        table = _parquet(file, [spec.id, spec.time, *spec.features]).sort_values([spec.id, spec.time], kind="stable")
        table[spec.id] = table[spec.id].astype(str)
        for case in table.loc[table.duplicated([spec.id, spec.time]), spec.id].unique():
            problems.add(f"{file}: case {case} has two rows of the same {spec.time!r}")
        codes, ids = pd.factorize(table[spec.id])
        step = table.groupby(spec.id, sort=False).cumcount().to_numpy()
        try:
            values = table[list(spec.features)].to_numpy(dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"{file}: expected numbers in the feature columns: {error}") from error
        if np.isinf(values).any():
            problems.add(f"{file}: expected finite values, got {int(np.isinf(values).sum())} infinite one(s)")
        raw = np.full((len(ids), spec.steps, len(spec.features)), np.nan)
        early = step < spec.steps
        raw[codes[early], step[early]] = values[early]
        return list(ids), raw

    def fit(self, raw: np.ndarray) -> Fitted:
        return fit_standard(_fill_forward(raw), axes=(0, 1))

    def moments(self, raw: np.ndarray, fewest: int = 0) -> Moments:
        return moments(_fill_forward(raw), axes=(0, 1), fewest=fewest)

    def apply(self, fitted: Fitted, raw: np.ndarray) -> Tensor:
        standard = (_fill_forward(raw) - np.asarray(fitted["mean"])) / np.asarray(fitted["std"])
        return torch.from_numpy(np.clip(np.nan_to_num(standard, nan=0.0), -LIMIT, LIMIT).astype(np.float32))

    def layout(self) -> dict[str, Any]:
        return self.spec.model_dump(mode="json", include={"format", "features", "steps"})

    def missing(self, raw: np.ndarray) -> dict[str, int]:
        return dict(zip(self.spec.features, np.isnan(raw).all(axis=1).sum(axis=0).tolist(), strict=True))


def _fill_forward(raw: np.ndarray) -> np.ndarray:
    """Carry the last observed value of each case and feature forward in time; (N, steps, features)."""
    steps = np.arange(raw.shape[1]).reshape(1, -1, 1)
    last = np.maximum.accumulate(np.where(np.isnan(raw), 0, steps), axis=1)
    return np.take_along_axis(raw, last, axis=1)


def _parquet(file: Path, columns: list[str]) -> pd.DataFrame:
    """The named columns of a parquet file."""
    import pyarrow.parquet

    require_file(file)
    try:
        there = pyarrow.parquet.read_schema(file).names
        require_columns(file, there, columns)
        return pd.read_parquet(file, columns=columns)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: expected a parquet file: {error}") from error
