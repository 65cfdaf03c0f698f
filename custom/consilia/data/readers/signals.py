"""WFDB records (ECG and alike) listed in a CSV: all of one length, one sampling frequency and one lead order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from consilia.core.errors import DataError
from consilia.data.cases import Cases, index_cases, read_table, require_columns, require_file
from consilia.data.moments import Moments, moments
from consilia.data.problems import Problems
from consilia.data.readers.base import Fitted, Reader, fit_standard
from consilia.data.specs import SignalsSpec


class SignalsReader(Reader[SignalsSpec]):
    """Raw values (N, leads, samples) float32 in the record's physical units; inputs standardised per lead."""

    def index(self, problems: Problems) -> Cases:
        spec = self.spec
        table = read_table(spec.file)
        by = spec.select.column if spec.select else None
        require_columns(spec.file, list(table), [spec.label.column, spec.patient, spec.case, by, spec.record])
        require_file(spec.folder, "folder")
        return index_cases(table, list(table[spec.case or spec.record]), spec, spec.file, problems)

    def read(self, cases: Cases, problems: Problems) -> np.ndarray:
        return self._stack([self.spec.folder / name for name in cases.rows[self.spec.record]], problems)

    def read_new(self, source: Path, problems: Problems) -> tuple[list[str], np.ndarray]:
        require_file(source, "folder")
        records = sorted(path.with_suffix("") for path in source.glob("*.hea"))
        if not records:
            raise DataError(f"{source}: no WFDB header (*.hea) in this folder")
        return [record.name for record in records], self._stack(records, problems, new=True)

    def _stack(self, records: list[Path], problems: Problems, *, new: bool = False) -> np.ndarray:
        stacked = np.zeros((len(records), len(self.spec.leads), self.spec.samples), dtype=np.float32)
        for i, record in enumerate(records):
            signal = self._record(record, problems, record.name if new else None)
            if signal is not None:
                stacked[i] = signal
        return stacked

    def _record(self, path: Path, problems: Problems, case: str | None) -> np.ndarray | None:
        """One record (leads, samples), or None and a problem."""
        import wfdb

        try:
            record = wfdb.rdrecord(str(path))
        # wfdb raises what its parser meets: index, value, key and its own errors.
        except Exception as error:
            problems.add(f"{path}: expected a readable WFDB record: {error}", case)
            return None
        spec = self.spec
        wrong = []
        if [name.casefold() for name in record.sig_name] != [name.casefold() for name in spec.leads]:
            wrong.append(f"leads {list(spec.leads)}, got {record.sig_name}")
        if float(record.fs) != spec.frequency:
            wrong.append(f"{spec.frequency} Hz, got {record.fs}")
        if record.sig_len != spec.samples:
            wrong.append(f"{spec.samples} samples, got {record.sig_len}")
        if not wrong and not np.isfinite(record.p_signal).all():
            wrong.append("finite values, got missing samples")
        if wrong:
            problems.add(f"{path}: expected {'; '.join(wrong)}", case)
        return None if wrong else np.asarray(record.p_signal.T, dtype=np.float32)

    def fit(self, raw: np.ndarray) -> Fitted:
        return fit_standard(raw, axes=(0, 2))

    def moments(self, raw: np.ndarray, fewest: int = 0) -> Moments:
        return moments(raw, axes=(0, 2), fewest=fewest)

    def apply(self, fitted: Fitted, raw: np.ndarray) -> Tensor:
        mean, std = (np.asarray(fitted[key]).reshape(1, -1, 1) for key in ("mean", "std"))
        return torch.from_numpy(((raw - mean) / std).astype(np.float32))

    def layout(self) -> dict[str, Any]:
        return self.spec.model_dump(mode="json", include={"format", "leads", "samples", "frequency"})
