"""What the methods of records show of them: found by the record's method and by the sections that it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from consilia.core.errors import ConfigError, described
from consilia.methods.contract import Method
from consilia.methods.registry import method_class, method_names, plugin_file
from consilia.record.schema import Record
from consilia.report.panel import Panel, TextTable

R = TypeVar("R")
T = TypeVar("T")


def panels_of(records: Sequence[Record]) -> list[Panel]:
    """The panels of the methods, for the report of one record or the comparison of several."""
    return [panel for method in _methods(records) for panel in _made(method, method.panels, records)]


def tables_of(records: Sequence[Record]) -> list[TextTable]:
    """The methods' own tables for the terminal."""
    return [table for method in _methods(records) for table in _made(method, method.tables, records)]


def scalars_of(record: Record) -> Iterator[tuple[str, int, float]]:
    """The methods' own scalars, for TensorBoard."""
    for method in _methods([record]):
        yield from _made(method, method.scalars, record)


def _made(method: type[Method[Any]], show: Callable[[R], Iterable[T]], shown: R) -> list[T]:
    """What a method shows; raises :class:`ConfigError` where it fails on a record, its section altered by hand say."""
    try:
        return list(show(shown))
    except Exception as error:
        raise ConfigError(
            f"method {method.name} cannot show its part of the record: {described(error, plugin_file())}"
        ) from error


def _methods(records: Sequence[Record]) -> list[type[Method[Any]]]:
    """Of a method that is not installed here, and of a baseline, there is nothing to show."""
    names = dict.fromkeys(name for record in records for name in (record.run.method, *record.sections))
    installed = method_names()
    return [method_class(name) for name in names if name in installed]
