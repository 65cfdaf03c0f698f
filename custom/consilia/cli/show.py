"""What the command line prints: progress with the time left, and a run's metrics as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from consilia.cli.console import console
from consilia.core.events import (
    Back,
    Event,
    Finished,
    Notice,
    Personalizing,
    Prepared,
    RoundDone,
    ServerWorks,
    SiteEvent,
    SiteTrouble,
)
from consilia.core.events import Progress as Listener
from consilia.core.plain import plain
from consilia.core.task import Task
from consilia.evaluation.compare import Spread, comparison_table
from consilia.evaluation.metrics import FINAL, OVER_ROUNDS, Terminal
from consilia.evaluation.summary import Part
from consilia.record.metrics import UNDEFINED, Metric
from consilia.record.schema import Record
from consilia.report.panel import TextTable


class Follower:
    """Turns a run's progress events into a progress bar and a few lines."""

    def __init__(self, bar: Progress, name: str, rounds: int | None) -> None:
        self._bar = bar
        self._task = bar.add_task(f"{name}: starting", total=rounds)
        self._name = name

    def __call__(self, event: Event) -> None:
        match event:
            case Prepared():
                self._bar.update(self._task, total=event.rounds, description=f"{self._name}: training")
            case RoundDone():
                value = event.validation
                shown = "" if value is None else f", validation {value:.3f}"
                self._bar.update(self._task, completed=event.round, description=f"{self._name}: training{shown}")
            case SiteTrouble():
                self._bar.console.print(plain(f"{event.site}: {event.reason}"), style="yellow")
            case Back():
                self._bar.console.print(plain(event), highlight=False)
            case Finished():
                self._bar.update(self._task, description=f"{self._name}: done in {event.seconds:.0f} s")
            case Personalizing() | ServerWorks() | Notice():
                self._bar.update(self._task, description=f"{self._name}: {plain(event)}")


COLUMNS_OF_BAR = (
    TextColumn("{task.description}", markup=False),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("rounds, left"),
)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar with the time left."""
    with Progress(*COLUMNS_OF_BAR, TimeRemainingColumn(), console=console) as bar:
        yield bar


@contextmanager
def job_view(name: str) -> Iterator[Listener]:
    """What is told the events of a job that runs elsewhere: on a terminal a live view, else a line per event."""
    if not console.is_terminal:
        yield _print_line
        return
    bar = Progress(*COLUMNS_OF_BAR, TimeRemainingColumn(), console=console)
    board = SiteBoard()
    follower = Follower(bar, name, None)
    with Live(Group(bar, board), console=console) as live:

        def show(event: Event) -> None:
            follower(event)
            board(event)
            live.refresh()

        yield show


class SiteBoard:
    """A line per site: what the server last heard of it."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case SiteEvent():
                self.states[event.site] = event.state
            case Prepared():
                self._all("waiting for its first answer", event.sites)
            case RoundDone() if event.round < event.of:
                self._all(f"round {event.round + 1}: waiting for its answer", self._present())
            case Personalizing():
                self._all("waiting for its last metrics", self._present())

    def __rich__(self) -> Table:
        table = Table(box=None, show_header=False, padding=(0, 2))
        for site, state in sorted(self.states.items()):
            troubled = state.startswith(("refused", "absent", "missing"))
            table.add_row(plain(site), Text(plain(state), style="yellow" if troubled else ""))
        return table

    def _present(self) -> list[str]:
        return [site for site, state in self.states.items() if not state.startswith(("absent", "missing"))]

    def _all(self, state: str, sites: Sequence[str]) -> None:
        self.states.update(dict.fromkeys(sites, state))


def _print_line(event: Event) -> None:
    console.print(plain(event), highlight=False, soft_wrap=True)


UP = Metric("up_max", "Bytes up", "megabytes", False, "largest update of a site in a round")


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
    rows = comparison_table(records)
    task = rows[0].task if rows else "classification"
    columns = terminal_columns(task)
    table = Table(
        title=f"Last round, test splits; {'Dice' if task == 'segmentation' else 'accuracies'} in %",
        caption=" ".join(terminal.legend for _, _, terminal in columns if terminal.legend),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        min_width=84,
    )
    table.add_column("method", no_wrap=True)
    table.add_column("seeds", justify="right")
    for _, _, terminal in columns:
        table.add_column(terminal.heading, justify="right")
    for row in rows:
        cells = (_cell(row.spread(part, metric.name), terminal.factor) for part, metric, terminal in columns)
        table.add_row(row.label, str(len(row.seeds)), *cells)
    return table


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
