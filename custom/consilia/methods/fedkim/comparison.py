"""What the comparison of several runs shows of the answers: by task what each method's language model reaches."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from consilia.evaluation.compare import group_by_label
from consilia.evaluation.rounds import mean
from consilia.methods.fedkim.panels import ANSWERERS, COLUMNS, GROUPS
from consilia.methods.fedkim.section import Answerer, injection_of
from consilia.record.metrics import Metric, show, show_spread
from consilia.record.schema import Record
from consilia.report.format import plural

TABLES: tuple[tuple[str, Answerer, str, str], ...] = (
    ("Closed questions, AUROC of the language model", "injected", "closed", "auroc"),
    ("Closed questions, AUROC of the aggregated small model", "extractor", "closed", "auroc"),
    ("Open questions, ROUGE-1 of the language model", "injected", "open", "rouge1"),
)
"""Caption, whose answers, kind of question and metric."""

SHARED: tuple[Answerer, ...] = ("linear", "majority")  # made from the public data alone, so alike in all methods


def answer_tables(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The tables of tasks by methods: ``caption``, ``columns`` (label and whether it is a baseline), ``rows``.

    A row has a ``name``, whether it is a ``mean`` and a cell per column: ``value`` and ``between``, as text. One seed:
    the metric and its 95 % interval; several: mean ± sample standard deviation over seeds. Empty without any injection.
    """
    groups = {
        label: injections
        for label, group in group_by_label(records).items()
        if (injections := [found.model_dump(mode="json") for one in group if (found := injection_of(one)) is not None])
    }
    if not groups:
        return []
    tables = [_table(groups, *table) for table in TABLES]
    return [table for table in tables if table["rows"]]


def _table(groups: Mapping[str, Sequence[Any]], caption: str, who: Answerer, kind: str, key: str) -> dict[str, Any]:
    first = next(iter(groups.values()))
    columns = [(label, False, injections, who) for label, injections in groups.items()]
    columns += [(ANSWERERS[other], True, first[:1], other) for other in SHARED]
    columns = [column for column in columns if any(_values(*column[2:], task, kind, key) for task in _tasks(groups))]
    metric = next(metric for metric in COLUMNS[kind] if metric.name == key)
    rows: list[dict[str, Any]] = []
    for group, title in GROUPS.items():
        # A task that no method answers is no comparison.
        methods = [column for column in columns if not column[1]]
        tasks = [task for task in _tasks(groups, group) if any(_values(*c[2:], task, kind, key) for c in methods)]
        for task in tasks:
            cells = [_cell(_values(*column[2:], task, kind, key), metric) for column in columns]
            rows.append({"name": task, "mean": False, "cells": cells})
        if tasks:
            cells = [_mean_cell(*column[2:], tasks, kind, metric) for column in columns]
            rows.append({"name": f"mean of {title.lower()}", "mean": True, "cells": cells})
    return {"caption": caption, "columns": [(label, baseline) for label, baseline, _, _ in columns], "rows": rows}


def _tasks(groups: Mapping[str, Sequence[Any]], group: str | None = None) -> list[str]:
    """The tasks of one group or of both, in the order in which they first appear."""
    wanted = [group] if group else list(GROUPS)
    every = (injection for injections in groups.values() for injection in injections)
    return list(dict.fromkeys(task for injection in every for name in wanted for task in injection[name]))


def _values(injections: Sequence[Any], who: str, task: str, kind: str, key: str) -> list[Any]:
    """(value, interval) of each seed that has the metric."""
    found = ((injection["test"].get(who, {}).get(task) or {}).get(kind) for injection in injections)
    parts = [part for part in found if part is not None and part.get(key) is not None]
    return [(part[key], (part.get("intervals") or {}).get(key)) for part in parts]


def _cell(values: Sequence[Any], metric: Metric) -> dict[str, str | None]:
    if len(values) == 1 and values[0][1] is not None:
        low, high = (show(end, metric.unit) for end in values[0][1])
        return {"value": show(values[0][0], metric.unit), "between": f"{low} to {high}"}
    return {"value": _spread([value for value, _ in values], metric), "between": None}


def _mean_cell(
    injections: Sequence[Any], who: str, tasks: Sequence[str], kind: str, metric: Metric
) -> dict[str, str | None]:
    """Mean over the tasks of each seed, then over seeds; with the number of tasks where a method lacks some."""
    found = {task: _values(injections, who, task, kind, metric.name) for task in tasks}
    known = [values for values in found.values() if values]
    seeds = [mean(values[seed][0] for values in known) for seed in range(min(map(len, known), default=0))]
    text = _spread([value for value in seeds if value is not None], metric)
    return {"value": text, "between": f"of {plural(len(known), 'task')}" if 0 < len(known) < len(tasks) else None}


def _spread(values: Sequence[float], metric: Metric) -> str:
    middle = statistics.fmean(values) if values else None
    return show_spread(middle, statistics.stdev(values) if len(values) > 1 else None, metric.unit)
