"""Comparison of runs: the seeds of each label become one row of means and sample standard deviations."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from consilia.core.errors import ConfigError
from consilia.core.plain import plain
from consilia.core.task import Task
from consilia.evaluation.metrics import FINAL
from consilia.evaluation.summary import Part, Summary, summarise
from consilia.record.metrics import Metric, Unit, show_spread
from consilia.record.schema import Record, RunInfo


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None below two values) of the ``n`` seeds that have a value."""

    mean: float | None = None
    sd: float | None = None
    n: int = 0


@dataclass(frozen=True)
class Row:
    """The runs of one label, which differ in their seed."""

    label: str
    method: str
    task: Task
    seeds: list[int]
    summaries: list[Summary]

    def spread(self, part: Part, name: str) -> Spread:
        """A number of the summary over the seeds."""
        found = [summary.numbers(part).get(name) for summary in self.summaries]
        values = [value for value in found if value is not None]
        if not values:
            return Spread()
        return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    def text(self, part: Part, name: str, unit: Unit) -> str:
        """One cell: mean ± sd, with the number of seeds behind it where that is not all of them."""
        found = self.spread(part, name)
        text = show_spread(found.mean, found.sd, unit)
        return text if found.n in (0, len(self.seeds)) else f"{text} (n = {found.n})"

    def has(self, part: Part) -> bool:
        """Whether any seed has this part."""
        return any(summary.numbers(part) for summary in self.summaries)


Column = tuple[Part, Metric]
Run = tuple[RunInfo, Summary]


def check_labels(runs: Sequence[RunInfo]) -> None:
    """Runs of one label must be of one method and of different seeds, and all runs of one task.

    Raises:
        ConfigError: one label holds two methods or one seed twice; a repeated seed is no second sample, and would
            make the spread look smaller than it is. Or the runs are of different tasks.
    """
    for place, run in enumerate(runs):
        if run.task != runs[0].task:
            raise ConfigError(
                f"runs {runs[0].id} and {run.id} cannot be compared: expected one task, got {runs[0].task} and "
                f"{run.task}"
            )
        for other in runs[:place]:
            if other.label == run.label and (other.seed == run.seed or other.method != run.method):
                raise ConfigError(
                    f"runs {other.id} and {run.id} share the label {run.label!r}: expected one method and "
                    f"different seeds, got {other.method}, seed {other.seed} and {run.method}, seed {run.seed}"
                )


def group_by_label(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by ``run.label``, in the order in which the labels first appear; raises as :func:`check_labels`."""
    check_labels([record.run for record in records])
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.run.label, []).append(record)
    return groups


def comparison_table(records: Sequence[Record]) -> list[Row]:
    """One row per label; raises as :func:`check_labels`."""
    return table_of([(record.run, summarise(record)) for record in records])


def table_of(runs: Sequence[Run]) -> list[Row]:
    """One row per label of runs that are summarised already; raises as :func:`check_labels`."""
    check_labels([run for run, _ in runs])
    groups: dict[str, list[Run]] = {}
    for run, summary in runs:
        groups.setdefault(run.label, []).append((run, summary))
    return [
        Row(label, group[0][0].method, group[0][0].task, [run.seed for run, _ in group], [found for _, found in group])
        for label, group in groups.items()
    ]


def columns(task: Task, part: Part, names: Sequence[str]) -> list[Column]:
    """Columns of the metrics of a chosen version, by name."""
    return [(part, FINAL.get(task, name)) for name in names]


def to_markdown(rows: Sequence[Row], shown: Sequence[Column] | None = None) -> str:
    """A Markdown table of some columns, one line per row; undefined values are a dash.

    ``shown`` None takes the metrics of the last version that are marked as brief.
    """
    task: Task = rows[0].task if rows else "classification"
    if shown is None:
        shown = [("last", metric) for metric in FINAL.of(task) if metric.brief]
    headings = " | ".join(metric.heading for _, metric in shown)
    lines = [f"| | seeds | {headings} |", "|---|---|" + "---|" * len(shown)]
    for row in rows:
        cells = " | ".join(row.text(part, metric.name, metric.unit) for part, metric in shown)
        label = re.sub(r"([\\`*\[\]<>|])", r"\\\1", plain(row.label))
        lines.append(f"| {label} | {len(row.seeds)} | {cells} |")
    return "\n".join(lines) + "\n"


def any_defined(rows: Sequence[Row], part: Part, name: str) -> bool:
    """Whether any row has a value."""
    return any(row.spread(part, name).n for row in rows)
