"""Delimited text: numeric columns (imputed, standardised), missing indicators, categorical columns one-hot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from consilia.core.errors import ConfigError
from consilia.data.cases import Cases, canonical, index_cases, read_table, require_columns
from consilia.data.moments import Moments, moments
from consilia.data.problems import Problems
from consilia.data.readers.base import Fitted, Reader, short_digest
from consilia.data.specs import TabularSpec

LATER_KEYS = {"missing_rows", "first_level", "standardise", "deviation"}


class TabularReader(Reader[TabularSpec]):
    """Raw values (N, numeric + categorical) float64: numbers, then level indices; NaN where missing.

    Inputs (N, F): numeric columns, their missing indicators if asked for, then one column per declared level (or all
    but a column's first), so that every site of a federation has the same layout whatever its data hold.
    """

    def index(self, problems: Problems) -> Cases:
        spec = self.spec
        tables = []
        for file in (spec.file, *spec.more_files):
            table = read_table(file, spec.separator, spec.columns)
            by = spec.select.column if spec.select else None
            needed = [spec.label.column, spec.time, spec.patient, spec.case, by, *spec.numeric, *spec.categorical]
            require_columns(file, list(table), needed)
            if spec.more_files:
                table["row#"] = [f"{file.stem}-{row}" for row in table["row#"]]  # of which file
            tables.append(table)
        table = pd.concat(tables, ignore_index=True)
        if spec.missing_rows == "drop":
            table = table[~self._incomplete(table)].reset_index(drop=True)
        return index_cases(table, self._ids(table), spec, spec.file, problems)

    def read(self, cases: Cases, problems: Problems) -> np.ndarray:
        return self._parse(cases.rows, self.spec.file, problems)

    def truth(self, cases: Cases, problems: Problems) -> np.ndarray:
        """Labels (N,) int64; of a survival the time and whether it ended with the event, (N, 2) float64."""
        name = self.spec.time
        if name is None:
            return cases.labels
        texts, missing = self._texts(cases.rows, name)
        times = pd.to_numeric(texts.mask(missing), errors="coerce").to_numpy(dtype=np.float64)
        for i in np.flatnonzero(~(np.isfinite(times) & (times >= 0))):
            got = "no value" if missing[i] else repr(texts.iloc[i])
            problems.add(
                f"{self.spec.file}: row {cases.rows['row#'].iloc[i]}: time column {name!r}: "
                f"expected a number from 0 on, got {got}"
            )
        return np.stack([times, cases.labels.astype(np.float64)], axis=1)

    def read_new(self, source: Path, problems: Problems) -> tuple[list[str], np.ndarray]:
        spec = self.spec
        columns = spec.columns
        table = read_table(source, spec.separator, columns)
        require_columns(source, list(table), [spec.case, *spec.numeric, *spec.categorical])
        if spec.missing_rows == "drop":
            for i in np.flatnonzero(self._incomplete(table)):
                lacks = f"{source}: row {table['row#'].iloc[i]}: a value is missing, and missing_rows is drop"
                problems.add(lacks, case=self._ids(table)[i])
        return self._ids(table), self._parse(table, source, problems)

    def _incomplete(self, table: pd.DataFrame) -> np.ndarray:
        """Mask (N,) of the rows that lack the value of a feature."""
        lacking = [self._texts(table, name)[1] for name in (*self.spec.numeric, *self.spec.categorical)]
        return np.asarray(np.any(lacking, axis=0), dtype=bool)

    def _ids(self, table: pd.DataFrame) -> list[str]:
        if self.spec.case is None:
            return [f"row-{row}" for row in table["row#"]]
        return [text.strip() for text in table[self.spec.case]]

    def content(self, cases: Cases) -> Sequence[str]:
        if self.spec.case is not None:
            return ()
        columns = [*self.spec.numeric, *self.spec.categorical, self.spec.label.column]
        columns += [] if self.spec.time is None else [self.spec.time]
        texts = [cases.rows[name].map(canonical) for name in columns]
        return [short_digest("\x1f".join(row).encode()) for row in zip(*texts, strict=True)]

    def _parse(self, table: pd.DataFrame, file: Path, problems: Problems) -> np.ndarray:
        columns = [self._numbers(table, name, file, problems) for name in self.spec.numeric]
        columns += [self._levels(table, name, file, problems) for name in self.spec.categorical]
        return np.stack(columns, axis=1)

    def _texts(self, table: pd.DataFrame, name: str) -> tuple[pd.Series, np.ndarray]:
        texts = table[name].map(canonical)
        marks = {canonical(mark) for mark in (*self.spec.missing, *self.spec.missing_values.get(name, ()))}
        return texts, texts.isin(marks).to_numpy()

    def _numbers(self, table: pd.DataFrame, name: str, file: Path, problems: Problems) -> np.ndarray:
        texts, missing = self._texts(table, name)
        values = pd.to_numeric(texts.mask(missing), errors="coerce").to_numpy(dtype=np.float64)
        wrong = ~np.isfinite(values) & ~missing
        for i in np.flatnonzero(wrong):
            problems.add(
                f"{file}: row {table['row#'].iloc[i]}: column {name!r}: expected a number, got {texts.iloc[i]!r}"
            )
        if self.spec.numeric_missing == "error":
            for i in np.flatnonzero(missing):
                problems.add(
                    f"{file}: row {table['row#'].iloc[i]}: column {name!r}: the value is missing ({texts.iloc[i]!r}), "
                    "which numeric_missing: error forbids"
                )
        return np.where(wrong, np.nan, values)

    def _levels(self, table: pd.DataFrame, name: str, file: Path, problems: Problems) -> np.ndarray:
        texts, missing = self._texts(table, name)
        levels = {canonical(level): i for i, level in enumerate(self.spec.categorical[name])}
        codes = np.where(missing, np.nan, texts.map(levels).to_numpy(dtype=np.float64))
        for i in np.flatnonzero(np.isnan(codes) & ~missing):
            problems.add(
                f"{file}: row {table['row#'].iloc[i]}: column {name!r}: expected one of {list(levels)}, "
                f"got {texts.iloc[i]!r}"
            )
        return codes

    def fit(self, raw: np.ndarray) -> Fitted:
        from sklearn.impute import SimpleImputer
        from sklearn.preprocessing import StandardScaler

        numbers = raw[:, : len(self.spec.numeric)]
        median = np.zeros(0)
        if numbers.shape[1]:
            # keep_empty_features: a column no hospital of ours recorded still exists elsewhere; it becomes 0.
            imputer = SimpleImputer(strategy="median", keep_empty_features=True).fit(numbers)
            median = np.nan_to_num(imputer.statistics_)
        inputs = self._inputs(median, raw)
        width = {"none": 0, "numeric": numbers.shape[1], "all": inputs.shape[1]}[self.spec.standardise]
        if not width:
            return {"median": median.tolist(), "mean": [], "scale": []}
        scaler = StandardScaler().fit(inputs[:, :width])
        scale = scaler.scale_
        if self.spec.deviation == "sample" and len(raw) > 1:
            scale = np.where(scaler.var_ > 0, scale * np.sqrt(len(raw) / (len(raw) - 1)), scale)
        return {"median": median.tolist(), "mean": scaler.mean_.tolist(), "scale": scale.tolist()}

    def moments(self, raw: np.ndarray, fewest: int = 0) -> Moments:
        if self.spec.numeric_missing == "impute" and self.spec.missing_rows == "keep":
            raise ConfigError(
                "preprocessing: pooled is for values that are a mean and a deviation; format tabular imputes medians, "
                "which do not add up over sites: set preprocessing: site, or in every site.yaml numeric_missing: error "
                "or missing_rows: drop"
            )
        width = len(self.spec.numeric)
        if self.spec.standardise == "none":
            raise ConfigError("preprocessing: pooled standardises, and site.yaml has standardise: none: set it to site")
        if self.spec.standardise == "all":
            # Nothing is missing, so that no median is ever filled in.
            return moments(self._inputs(np.zeros(width), raw), axes=(0,), fewest=fewest)
        if not width:
            raise ConfigError("preprocessing: pooled is for numbers, and site.yaml names no numeric columns")
        return moments(raw[:, :width], axes=(0,), fewest=fewest)

    def pooled(self, values: Mapping[str, list[float]]) -> Fitted:
        median = list(values["mean"])[: len(self.spec.numeric)]
        return {"median": median, "mean": list(values["mean"]), "scale": list(values["std"])}

    def apply(self, fitted: Fitted, raw: np.ndarray) -> Tensor:
        inputs = self._inputs(np.asarray(fitted["median"]), raw)
        width = len(fitted["mean"])
        inputs[:, :width] = (inputs[:, :width] - np.asarray(fitted["mean"])) / np.asarray(fitted["scale"])
        return torch.from_numpy(inputs.astype(np.float32))

    def _inputs(self, median: np.ndarray, raw: np.ndarray) -> np.ndarray:
        """Inputs (N, F) float64 before they are standardised."""
        width = len(self.spec.numeric)
        numbers, codes = raw[:, :width], raw[:, width:]
        missing = np.isnan(numbers)
        blocks = [np.where(missing, median, numbers)]
        if self.spec.missing_indicators:
            blocks.append(missing)
        first = int(self.spec.first_level == "drop")
        for i, levels in enumerate(self.spec.categorical.values()):
            blocks.append(codes[:, i : i + 1] == np.arange(first, len(levels)))  # a missing value (NaN): no level
        return np.concatenate(blocks, axis=1, dtype=np.float64)

    def layout(self) -> dict[str, Any]:
        fields = {"format", "numeric", "categorical", "missing_indicators", "missing", "missing_values"}
        # What an older file lacks has the value that was the only one then.
        newer = self.spec.model_dump(mode="json", include=LATER_KEYS, exclude_defaults=True)
        return self.spec.model_dump(mode="json", include=fields) | newer

    def missing(self, raw: np.ndarray) -> dict[str, int]:
        return dict(zip([*self.spec.numeric, *self.spec.categorical], np.isnan(raw).sum(axis=0).tolist(), strict=True))
