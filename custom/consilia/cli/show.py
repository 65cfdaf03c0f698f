"""What the command line prints of finished runs: their metrics as tables, and what went wrong on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from consilia.cli.console import console, print_table
from consilia.cli.curves import round_curves
from consilia.core.plain import plain
from consilia.core.task import Task
from consilia.evaluation.compare import Row, Spread, comparison_table
from consilia.evaluation.left_out import mean_over_sites, rows_by_site
from consilia.evaluation.metrics import FINAL, OVER_ROUNDS, Terminal
from consilia.evaluation.rounds import test_only_sites
from consilia.evaluation.summary import Part
from consilia.evaluation.tested import NO_BALANCE, tested_on
from consilia.federation.outputs import REPORT
from consilia.methods.shown import tables_of
from consilia.record.metrics import UNDEFINED, Metric
from consilia.record.schema import Record
from consilia.report.panel import TextTable
from consilia.study.plan import Planned
from consilia.study.tuning import Choice

UP = Metric("up_max", "Bytes up", "megabytes", False, "largest update of a site in a round")


UNITS: dict[Task, str] = {"classification": "accuracies", "segmentation": "Dice", "survival": "C-index"}
"""By task, what the table on the terminal has in per cent."""


def terminal_columns(task: Task) -> list[tuple[Part, Metric, Terminal]]:
    """What the table on the terminal shows of each run."""
    shown: list[tuple[Part, Metric, Terminal]] = [
        ("last", metric, metric.terminal) for metric in FINAL.of(task) if metric.terminal is not None
    ]
    shown += [
        ("over_rounds", metric, metric.terminal) for metric in OVER_ROUNDS.of(task) if metric.terminal is not None
    ]
    return [
        *sorted(shown, key=lambda column: column[2].place),
        ("costs", UP, Terminal(0, "MB up", 1e-6, "MB up: largest update of a site in a round.")),
    ]


def comparison(records: Sequence[Record]) -> Table:
    """Mean (and, over several seeds, spread) per method."""
    columns = terminal_columns(records[0].run.task)
    table = _metrics_table(records, columns, "method", "seeds")
    for row in comparison_table(records):
        table.add_row(row.label, str(len(row.seeds)), *_cells(row, columns))
    return table


def left_out_comparison(runs: Sequence[tuple[str, Record]]) -> Table:
    """A row per method and site that was left out, and their mean; ``runs``: that site and the record of each."""
    records = [record for _, record in runs]
    columns = terminal_columns(records[0].run.task)
    table = _metrics_table(records, columns, "method", "left out", "seeds")
    for label, by_site in rows_by_site(runs).items():
        for place, (site, row) in enumerate(by_site.items()):
            table.add_row("" if place else label, site, str(len(row.seeds)), *_cells(row, columns))
        means = (
            _cell(mean_over_sites(by_site.values(), part, metric.name), terminal.factor)
            for part, metric, terminal in columns
        )
        table.add_row("", "mean", "", *means, end_section=True)
    return table


def _metrics_table(
    records: Sequence[Record], columns: Sequence[tuple[Part, Metric, Terminal]], *headings: str
) -> Table:
    """An empty table: title and legend say whose test cases the metrics are of."""
    unit = UNITS[records[0].run.task]
    on = tested_on(*records)
    legend = [terminal.legend for _, _, terminal in columns if terminal.legend]
    if any(test_only_sites(record) for record in records):
        legend = [text for text in legend if not text.startswith("balance")] + [f"–: {NO_BALANCE}."]
    table = Table(
        title=f"Last round, {on + '; ' if on else ''}{unit} in %",
        caption=" ".join(legend),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        min_width=84,
    )
    for place, heading in enumerate((*headings, *(terminal.heading for _, _, terminal in columns))):
        table.add_column(heading, no_wrap=True, justify="left" if place < len(headings) - 1 else "right")
    return table


def _cells(row: Row, columns: Sequence[tuple[Part, Metric, Terminal]]) -> list[str]:
    return [_cell(row.spread(part, metric.name), terminal.factor) for part, metric, terminal in columns]


def text_table(content: TextTable) -> Table:
    """A method's own table."""
    table = Table(title=content.title, caption=content.caption, caption_justify="left", box=box.SIMPLE_HEAD)
    for place, heading in enumerate(content.columns):
        table.add_column(heading, no_wrap=not place, justify="right" if place else "left")
    for row in content.rows:
        table.add_row(*row)
    return table


def _cell(found: Spread, factor: float) -> str:
    if found.mean is None:
        return UNDEFINED
    digits = 1 if factor == 100 else 3
    mean = f"{factor * found.mean:.{digits}f}"
    return mean if found.sd is None else f"{mean}±{factor * found.sd:.{digits}f}"


def show_records(records: Sequence[Record], folder: Path) -> None:
    """Print the metrics of runs, what went wrong on the way, and where the report is."""
    tables = tables_of(records)
    for table in tables:
        print_table(text_table(table))
    if tables and any(map(test_only_sites, records)):
        console.print(tested_on(*records), highlight=False, soft_wrap=True)
    if not tables:
        print_table(comparison(records))
        if (curves := round_curves(records)) is not None:
            console.print()
            print_table(curves)
    _show_troubles(records)
    _say_report(folder)


def chosen_settings(choices: Sequence[Choice]) -> Table:
    """What tuning tried and chose, a row per label and cell; * marks the best value of a key."""
    table = Table("method", "tried: validation value, higher is better", "chosen", "edge", box=None)
    for choice in choices:
        tried = "  ".join(
            f"{', '.join(f'{value:g}' for value in one.setting.values())}: "
            f"{UNDEFINED if one.value is None else f'{one.value:.4f}'}"
            for one in choice.tried
        )
        name = " ".join(filter(None, (choice.label, choice.federation)))
        table.add_row(plain(name), tried, choice.words, "; ".join(choice.edges.values()))
    return table


def show_missing(without: Sequence[Planned]) -> None:
    """A line for every run of a study that has no result."""
    for run in without:
        console.print(plain(f"{run.name}: {run.status}: {run.reason}"), style="yellow", highlight=False, soft_wrap=True)


def _show_troubles(records: Sequence[Record]) -> None:
    for record in records:
        troubles = {site: reason for item in record.rounds for site, reason in item.refused.items()}
        for site, reason in troubles.items():
            console.print(f"{record.run.name}: an update of {site} was refused: {reason}", style="yellow")
        for absence in record.absences:
            until = f"until {absence.until}" if absence.until else "and was not heard again"
            console.print(
                f"{record.run.name}: {absence.site} did not answer from {absence.since} {until}", style="yellow"
            )


def _say_report(folder: Path) -> None:
    console.print(f"Report: {folder / REPORT}", highlight=False, soft_wrap=True)
