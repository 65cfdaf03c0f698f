"""What the command line prints: progress with the time left, and a run's figures as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from consilia.evaluation.compare import comparison_table
from consilia.evaluation.figures import UNDEFINED
from consilia.report.record import Record

console = Console(width=None if Console().is_terminal else 110)  # in a file or pipe nothing may be cut off at 80
errors = Console(stderr=True)

COLUMNS = {
    "last.global_accuracy": ("global", 100),
    "last.personal_accuracy": ("personal", 100),
    "last.balance": ("balance", 100),
    "last.worst_site.accuracy": ("worst", 100),
    "last.global_auroc": ("AUROC", 1),
    "over_rounds.bwt": ("BwT", 100),
    "over_rounds.nfr_global": ("NFR", 100),
}
"""Figure by its path in the summary: heading, and the factor it is shown by."""


class Follower:
    """Turns a run's progress events into a progress bar and a few lines."""

    def __init__(self, bar: Progress, name: str, rounds: int) -> None:
        self._bar = bar
        self._task = bar.add_task(f"{name}: starting", total=rounds)
        self._name = name

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "round":
            value = event.get("validation")
            shown = "" if value is None else f", validation {value:.3f}"
            self._bar.update(self._task, completed=event["round"], description=f"{self._name}: training{shown}")
        elif kind == "personalise":
            self._bar.update(self._task, description=f"{self._name}: personal models ({event['keep']})")
        elif kind in ("refused", "absent"):
            self._bar.console.print(f"{event['site']}: {event['reason']}", style="yellow", markup=False)
        elif kind == "finished":
            self._bar.update(self._task, description=f"{self._name}: done in {event['seconds']:.0f} s")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar with the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rounds, left"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        yield bar


def comparison(records: Sequence[Record]) -> Table:
    """Mean (and, over several seeds, spread) per method."""
    table = Table(
        title="Last round, test splits; accuracies in %",
        caption=EXPLANATION,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        min_width=84,
    )
    table.add_column("method", no_wrap=True)
    table.add_column("seeds", justify="right")
    for title, _ in COLUMNS.values():
        table.add_column(title, justify="right")
    for row in comparison_table([record.plain() for record in records]):
        cells = (_cell(row["figures"].get(key), factor) for key, (_, factor) in COLUMNS.items())
        table.add_row(str(row["label"]), str(len(row["seeds"])), *cells)
    return table


def _cell(figure: Mapping[str, Any] | None, factor: int) -> str:
    if figure is None or figure["mean"] is None:
        return UNDEFINED
    digits = 1 if factor == 100 else 3
    mean = f"{factor * figure['mean']:.{digits}f}"
    return mean if figure["sd"] is None else f"{mean}±{factor * figure['sd']:.{digits}f}"


EXPLANATION = """\
global: the shared model, test cases of all sites pooled. personal: each site's
own model at home, mean over sites. balance: mean of the two. worst: the lowest
personal accuracy. AUROC: per site, then averaged where defined. BwT: backward
transfer, below 0 is forgetting. NFR: cases newly wrong from round to round."""
