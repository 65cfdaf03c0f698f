"""The index of a dataset: one row per case with its id, patient and label, before any image or signal is read."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from consilia.core.errors import DataError
from consilia.data import public_pool
from consilia.data.problems import Problems
from consilia.data.specs import CommonSpec, LabelSpec

UNKNOWN = -1


@dataclass(frozen=True)
class Cases:
    """Cases of one site: ids, patients, labels (N,) int64 (or UNKNOWN), and their table rows."""

    ids: tuple[str, ...]
    patients: tuple[str, ...]
    labels: np.ndarray
    rows: pd.DataFrame

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, keep: np.ndarray) -> Cases:
        """The cases at the given positions or where a mask is true."""
        positions = np.flatnonzero(keep) if keep.dtype == bool else keep
        return Cases(
            tuple(self.ids[i] for i in positions),
            tuple(self.patients[i] for i in positions),
            self.labels[positions],
            self.rows.iloc[positions].reset_index(drop=True),
        )


def canonical(text: str) -> str:
    """The text without outer blanks, and ``1.0`` as ``1``: hospitals export the same code both ways."""
    text = text.strip()
    head, dot, tail = text.partition(".")
    return head if dot and head.lstrip("-").isdigit() and not tail.strip("0") else text


def read_table(file: Path, separator: str = ",", columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A delimited file as text, blanks kept as ``""``; ``columns`` names the columns of a file without a header.

    The column ``row#`` counts data rows from 1, the header not counted; error messages name it.
    """
    require_file(file)
    try:
        table = pd.read_csv(
            file,
            sep=separator,
            header=None if columns else 0,
            dtype=str,
            keep_default_na=False,
            na_filter=False,
            encoding="utf-8-sig",
        )
    except (ValueError, OSError) as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
        raise DataError(f"{file}: cannot be read as delimited text: {error}") from error
    if not isinstance(table.index, pd.RangeIndex):
        # Rows longer than the header (a decimal comma, say): pandas would shift the columns in silence.
        raise DataError(f"{file}: the rows have more fields than the header; check the separator and decimal commas")
    if columns is not None:
        if len(columns) != table.shape[1]:
            raise DataError(f"{file}: columns names {len(columns)} columns, the file has {table.shape[1]}")
        table.columns = pd.Index(columns)
    table["row#"] = np.arange(1, len(table) + 1)
    return table


def require_file(path: Path, kind: str = "file") -> None:
    """Raise :class:`DataError` unless the file (or folder) is there."""
    if not (path.is_dir() if kind == "folder" else path.is_file()):
        raise DataError(f"{path}: no such {kind}")


def require_columns(file: Path, there: Iterable[Hashable], needed: Sequence[str | None]) -> None:
    """Raise :class:`DataError` naming every column that is needed and missing."""
    names = [str(name) for name in there if name != "row#"]
    missing = sorted({name for name in needed if name is not None} - set(names))
    if missing:
        raise DataError(f"{file}: column(s) {missing} missing; it has {names}")


def index_cases(table: pd.DataFrame, ids: Sequence[str], spec: CommonSpec, file: Path, problems: Problems) -> Cases:
    """Build the cases of one site from a table: select its rows, leave out excluded patients, look up the labels.

    ``table`` needs ``row#`` and the columns for patient, label and select.
    """
    ids = [str(i) for i in ids]
    keep = selected(table, ids, spec, file)
    table, ids = table[keep].reset_index(drop=True), [i for i, k in zip(ids, keep, strict=True) if k]
    if not ids:
        raise DataError(f"{file}: no case is selected for this site")
    _note_bad_ids(table, ids, file, problems)
    if spec.patient is None:
        patients = list(ids)
    else:
        patients = [text.strip() for text in table[spec.patient].astype(str)]
        for row in table["row#"][[not patient for patient in patients]]:
            problems.add(f"{file}: row {row}: column {spec.patient!r} is empty, expected a patient id")
    label: LabelSpec | None = getattr(spec, "label", None)
    labels = np.full(len(ids), UNKNOWN)
    if label is not None:
        labels = label_indices(table, label, spec.classes, file, problems)
    cases = Cases(tuple(ids), tuple(patients), labels.astype(np.int64), table)
    excluded = set(spec.exclude_patients)
    if spec.public_pool is not None and spec.patient is not None:
        excluded |= public_pool.load_pool(spec.public_pool).patients
    return cases.take(np.array([patient not in excluded for patient in patients])) if excluded else cases


def selected(table: pd.DataFrame, ids: Sequence[str], spec: CommonSpec, file: Path) -> np.ndarray:
    """Mask (N,) of the rows that belong to this site. Raises :class:`DataError` for listed cases that are not there."""
    if spec.select is None:
        return np.ones(len(ids), dtype=bool)
    if spec.select.file is None:
        wanted = {canonical(value) for value in spec.select.values}
        return np.asarray(table[spec.select.column].map(lambda value: canonical(str(value)) in wanted), dtype=bool)
    require_file(spec.select.file)
    listed = {line.strip() for line in spec.select.file.read_text(encoding="utf-8").splitlines() if line.strip()}
    unknown = sorted(listed - set(ids))
    if unknown:
        raise DataError(f"{spec.select.file}: {len(unknown)} listed case(s) are not in {file}, e.g. {unknown[0]!r}")
    return np.array([i in listed for i in ids], dtype=bool)


def _note_bad_ids(table: pd.DataFrame, ids: Sequence[str], file: Path, problems: Problems) -> None:
    seen: dict[str, int] = {}
    for case, row in zip(ids, table["row#"], strict=True):
        if not case.strip():
            problems.add(f"{file}: row {row}: the case id is empty")
        elif case in seen:
            problems.add(f"{file}: row {row}: case id {case!r} is already in row {seen[case]}; ids must differ")
        else:
            seen[case] = row


def label_indices(
    table: pd.DataFrame, label: LabelSpec, classes: Sequence[str], file: Path, problems: Problems
) -> np.ndarray:
    """Class index (N,) of each row, UNKNOWN (and a problem) where the text fits none."""
    index = {name: i for i, name in enumerate(classes)}
    mapping = {canonical(text): name for text, name in (label.mapping or {name: name for name in classes}).items()}
    found = np.full(len(table), UNKNOWN, dtype=np.int64)
    parts = (label.contains,) if isinstance(label.contains, str) else label.contains
    for i, (text, row) in enumerate(zip(table[label.column].astype(str), table["row#"], strict=True)):
        if parts is not None:
            # An empty cell is a missing label, not a case of the other class.
            name = (label.then if any(part in text for part in parts) else label.otherwise) if text.strip() else None
            expected = "a text"
        else:
            name = mapping.get(canonical(text))
            expected = f"one of {sorted(mapping)}"
        if name is None:
            problems.add(f"{file}: row {row}: label column {label.column!r}: expected {expected}, got {text!r}")
        else:
            found[i] = index[name]
    return found
