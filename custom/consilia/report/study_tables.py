"""The tables of a study, made from its result alone: the same for the console, Markdown, LaTeX and the page."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from consilia.record.metrics import UNDEFINED
from consilia.record.study_result import LeakKind, PlannedRun, StudyResult, cell_title
from consilia.report.format import duration, number, size
from consilia.report.panel import TextTable
from consilia.report.study_cells import CellTables
from consilia.report.study_claims import claim_tables
from consilia.report.study_fairness import fairness_tables
from consilia.report.study_new_site import new_site_tables

Tables = dict[str, TextTable]
"""By name, which is that of its label."""


def study_tables(result: StudyResult) -> Tables:
    """All tables but those of times, by name: equal results give equal tables."""
    found: Tables = {}
    several = len(cells_in(result)) > 1
    for place, (data, option) in enumerate(cells_in(result), 1):
        for name, table in cell_tables(CellTables(result, data, option)):
            found[f"{place}-{name}" if several else name] = table
    found.update(claim_tables(result))
    if (leaks := leak_table(result)) is not None:
        found["leaks"] = leaks
    if (missing := missing_runs(result)) is not None:
        found["runs"] = missing
    return found


def cell_tables(cell: CellTables) -> Iterator[tuple[str, TextTable]]:
    """All tables of a cell by name."""
    yield from cell.tables()
    yield from fairness_tables(cell)
    yield from new_site_tables(cell)


def cells_in(result: StudyResult) -> list[tuple[str, str]]:
    """Data sets and options in the order of the plan."""
    planned = [(run.data, run.option) for run in result.runs]
    return list(dict.fromkeys([*planned, *((cell.data, cell.option) for cell in result.cells)]))


LEAKS: Mapping[LeakKind, str] = {
    "own site": "test cases that equal a training or validation case of their own site",
    "another site": "test cases that equal a training or validation case of another site",
    "several sites": "patients with cases at several sites",
    "fitted on test": "test cases to which their own preprocessing is fitted, without labels: of test-only sites",
}


def leak_table(result: StudyResult) -> TextTable | None:
    """What was looked for between training and test cases, and how many were found."""
    rows = [
        [cell_title(one.data, one.option), LEAKS[one.kind], number(one.found), number(one.of)] for one in result.leaks
    ]
    note = (
        "Equal: all values of the input, before preprocessing. The study would have been refused with a patient in two "
        "splits of a site, in two test folds, or in training at one site and in test at another, or with preprocessing "
        "that depends on other cases than the training ones."
    )
    return TextTable("Leaks looked for", ["data", "what", "found", "of"], rows, note) if rows else None


def missing_runs(result: StudyResult) -> TextTable | None:
    """The runs without a result, with reason and command; and those that are the same as another."""
    rows = [_run_row(run) for run in result.runs if run.status != "done"]
    columns = ["data", "option", "method", "fold", "seed", "status", "reason", "command"]
    return TextTable("Runs that failed, cannot be, or were not run", columns, rows) if rows else None


def _run_row(run: PlannedRun) -> list[str]:
    return [
        run.data,
        run.option or UNDEFINED,
        run.method,
        run.where or str(run.fold),
        str(run.seed),
        run.status,
        run.reason,
        run.command,
    ]


def by_method(runs: Sequence[PlannedRun]) -> Mapping[tuple[str, str, str], list[PlannedRun]]:
    """The done runs of every method in every cell."""
    found: dict[tuple[str, str, str], list[PlannedRun]] = {}
    for run in runs:
        if run.status == "done":
            found.setdefault((run.data, run.option, run.method), []).append(run)
    return found


def costs(result: StudyResult) -> TextTable | None:
    """Means of the done runs: rounds, bytes per site, and times, which differ from machine to machine."""
    rows = []
    for (data, option, method), runs in by_method(result.runs).items():
        mean = {
            name: statistics.fmean(values)
            if (values := [v for run in runs if (v := getattr(run, name)) is not None])
            else None
            for name in ("rounds", "bytes_up", "bytes_down", "seconds", "core_seconds")
        }
        rounds = UNDEFINED if mean["rounds"] is None else f"{mean['rounds']:.4g}"
        traffic = [size(mean["bytes_up"]), size(mean["bytes_down"])]
        times = [duration(mean["seconds"]), duration(mean["core_seconds"])]
        rows.append([cell_title(data, option), method, str(len(runs)), rounds, *traffic, *times])
    columns = ["data", "method", "runs", "rounds", "up, per site", "down, per site", "time", "core time"]
    note = "Times are of the study's own runs, several at once: compare them with those of quiet runs only."
    return TextTable("What a run cost, on average", columns, rows, note) if rows else None


def _mean(runs: Sequence[PlannedRun], name: str) -> float | None:
    values = [value for run in runs if (value := getattr(run, name)) is not None]
    return statistics.fmean(values) if values else None
