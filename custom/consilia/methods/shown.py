"""What the methods of records show of them: found by the record's method and by the sections that it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from consilia.methods.contract import Method
from consilia.methods.registry import method_class, method_names
from consilia.record.schema import Record
from consilia.report.panel import Panel, TextTable


def panels_of(records: Sequence[Record]) -> list[Panel]:
    """The panels of the methods, for the report of one record or the comparison of several."""
    return [panel for method in _methods(records) for panel in method.panels(records)]


def tables_of(records: Sequence[Record]) -> list[TextTable]:
    """The methods' own tables for the terminal."""
    return [table for method in _methods(records) for table in method.tables(records)]


def scalars_of(record: Record) -> Iterator[tuple[str, int, float]]:
    """The methods' own scalars, for TensorBoard."""
    for method in _methods([record]):
        yield from method.scalars(record)


def _methods(records: Sequence[Record]) -> list[type[Method[Any]]]:
    """Of a method that is not installed here, and of a baseline, there is nothing to show."""
    names = dict.fromkeys(name for record in records for name in (record.run.method, *record.sections))
    installed = method_names()
    return [method_class(name) for name in names if name in installed]
