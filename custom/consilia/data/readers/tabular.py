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


class TabularReader(Reader[TabularSpec]):
    """Raw values (N, numeric + categorical) float64: numbers, then level indices; NaN where missing.

    Inputs (N, F): numeric columns, their missing indicators if asked for, then one column per declared level, so that
    every site of a federation has the same layout whatever its data hold.
    """

    def index(self, problems: Problems) -> Cases:
        spec = self.spec
        tables = []
        for file in (spec.file, *spec.more_files):
            table = read_table(file, spec.separator, spec.columns)
            by = spec.select.column if spec.select else None
            needed = [spec.label.column, spec.patient, spec.case, by, *spec.numeric, *spec.categorical]
            require_columns(file, list(table), needed)
            if spec.more_files:
                table["row#"] = [f"{file.stem}-{row}" for row in table["row#"]]  # of which file
            tables.append(table)
        table = pd.concat(tables, ignore_index=True)
        return index_cases(table, self._ids(table), spec, spec.file, problems)

    def read(self, cases: Cases, problems: Problems) -> np.ndarray:
        return self._parse(cases.rows, self.spec.file, problems)

    def read_new(self, source: Path, problems: Problems) -> tuple[list[str], np.ndarray]:
        spec = self.spec
        columns = spec.columns
        table = read_table(source, spec.separator, columns)
        require_columns(source, list(table), [spec.case, *spec.numeric, *spec.categorical])
        return self._ids(table), self._parse(table, source, problems)

    def _ids(self, table: pd.DataFrame) -> list[str]:
        if self.spec.case is None:
            return [f"row-{row}" for row in table["row#"]]
        return [text.strip() for text in table[self.spec.case]]

    def content(self, cases: Cases) -> Sequence[str]:
        if self.spec.case is not None:
            return ()
        columns = [*self.spec.numeric, *self.spec.categorical, self.spec.label.column]
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
        if not numbers.shape[1]:
            return {"median": [], "mean": [], "scale": []}
        # keep_empty_features: a column no hospital of ours recorded still exists elsewhere; it becomes 0.
        imputer = SimpleImputer(strategy="median", keep_empty_features=True).fit(numbers)
        scaler = StandardScaler().fit(imputer.transform(numbers))
        return {
            "median": np.nan_to_num(imputer.statistics_).tolist(),
            "mean": scaler.mean_.tolist(),
            "scale": scaler.scale_.tolist(),
        }

    def moments(self, raw: np.ndarray, fewest: int = 0) -> Moments:
        if self.spec.numeric_missing == "impute":
            raise ConfigError(
                "preprocessing: pooled is for values that are a mean and a deviation; format tabular imputes medians, "
                "which do not add up over sites: set preprocessing: site, or numeric_missing: error in every site.yaml"
            )
        if not self.spec.numeric:
            raise ConfigError("preprocessing: pooled is for numbers, and site.yaml names no numeric columns")
        return moments(raw[:, : len(self.spec.numeric)], axes=(0,), fewest=fewest)

    def pooled(self, values: Mapping[str, list[float]]) -> Fitted:
        # Nothing is missing, so that no median is ever filled in.
        return {"median": list(values["mean"]), "mean": list(values["mean"]), "scale": list(values["std"])}

    def apply(self, fitted: Fitted, raw: np.ndarray) -> Tensor:
        width = len(self.spec.numeric)
        numbers, codes = raw[:, :width], raw[:, width:]
        missing = np.isnan(numbers)
        filled = np.where(missing, np.asarray(fitted["median"]), numbers)
        blocks = [(filled - np.asarray(fitted["mean"])) / np.asarray(fitted["scale"])]
        if self.spec.missing_indicators:
            blocks.append(missing)
        for i, levels in enumerate(self.spec.categorical.values()):
            blocks.append(codes[:, i : i + 1] == np.arange(len(levels)))  # a missing value (NaN) equals no level
        return torch.from_numpy(np.concatenate(blocks, axis=1).astype(np.float32))

    def layout(self) -> dict[str, Any]:
        fields = {"format", "numeric", "categorical", "missing_indicators", "missing", "missing_values"}
        return self.spec.model_dump(mode="json", include=fields)

    def missing(self, raw: np.ndarray) -> dict[str, int]:
        return dict(zip([*self.spec.numeric, *self.spec.categorical], np.isnan(raw).sum(axis=0).tolist(), strict=True))
