"""What the command line prints: progress with the time left, and a run's figures as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from consilia.cli.console import console
from consilia.core.task import Task
from consilia.evaluation.compare import Spread, comparison_table
from consilia.evaluation.metrics import FINAL, OVER_ROUNDS, Terminal
from consilia.evaluation.summary import Part
from consilia.federation.progress import Progress as Told
from consilia.record.injection import Answerer
from consilia.record.metrics import UNDEFINED, Metric
from consilia.record.schema import Record


class Follower:
    """Turns a run's progress events into a progress bar and a few lines."""

    def __init__(self, bar: Progress, name: str, rounds: int | None) -> None:
        self._bar = bar
        self._task = bar.add_task(f"{name}: starting", total=rounds)
        self._name = name

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "prepared":
            self._bar.update(self._task, total=event["rounds"], description=f"{self._name}: training")
        elif kind == "round":
            value = event.get("validation")
            shown = "" if value is None else f", validation {value:.3f}"
            self._bar.update(self._task, completed=event["round"], description=f"{self._name}: training{shown}")
        elif kind == "personalise":
            self._bar.update(self._task, description=f"{self._name}: personal models ({event['keep']})")
        elif kind == "injection":
            self._bar.console.print(injection_needs(event), highlight=False, markup=False)
        elif kind == "injecting":
            step = f"round {event['round']}, injecting step {event['step']} of {event['of']}"
            self._bar.update(self._task, description=f"{self._name}: {step}")
        elif kind == "asking":
            self._bar.update(self._task, description=f"{self._name}: asking {event['task']}")
        elif kind in ("refused", "absent"):
            self._bar.console.print(printable(f"{event['site']}: {event['reason']}"), style="yellow", markup=False)
        elif kind == "notice":
            self._bar.update(self._task, description=escape(f"{self._name}: {printable(event['reason'])}"))
        elif kind == "finished":
            self._bar.update(self._task, description=f"{self._name}: done in {event['seconds']:.0f} s")


def injection_needs(event: Mapping[str, Any]) -> str:
    """What an injection will take, in words, and a warning where memory is short."""
    needs, free = (event[key] / 1e9 for key in ("bytes", "bytes_free"))
    if event["seconds"] is None:
        return (
            f"each injection: {event['steps']} steps and about {needs:.1f} GB, more than the {free:.1f} GB that are "
            "free: set injection.accumulate, injection.gradient_checkpointing or injection.precision"
        )
    minutes = event["seconds"] / 60
    return (
        f"each injection: {event['steps']} steps, about {minutes:.1f} minutes and {needs:.1f} GB here "
        f"({free:.1f} GB free)"
    )


COLUMNS_OF_BAR = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rounds, left"))


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar with the time left."""
    with Progress(*COLUMNS_OF_BAR, TimeRemainingColumn(), console=console) as bar:
        yield bar


@contextmanager
def job_view(name: str) -> Iterator[Told]:
    """What is told the events of a job that runs elsewhere: on a terminal a live view, else a line per event."""
    if not console.is_terminal:
        yield _print_line
        return
    bar = Progress(*COLUMNS_OF_BAR, TimeRemainingColumn(), console=console)
    board = SiteBoard()
    follower = Follower(bar, name, None)
    with Live(Group(bar, board), console=console) as live:

        def tell(event: dict[str, Any]) -> None:
            follower(event)
            board(event)
            live.refresh()

        yield tell


class SiteBoard:
    """A line per site: what the server last heard of it."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind in ("reply", "refused", "absent"):
            self.states[event["site"]] = _of_one_site(event)
        elif kind == "prepared":
            self._all("waiting for its first answer", event["sites"])
        elif kind == "round" and event["round"] < event["of"]:
            self._all(f"round {event['round'] + 1}: waiting for its answer", self._present())
        elif kind == "personalise":
            self._all("waiting for its last figures", self._present())

    def __rich__(self) -> Table:
        table = Table(box=None, show_header=False, padding=(0, 2))
        for site, state in sorted(self.states.items()):
            troubled = state.startswith(("refused", "absent"))
            table.add_row(Text(printable(site)), Text(printable(state), style="yellow" if troubled else ""))
        return table

    def _present(self) -> list[str]:
        return [site for site, state in self.states.items() if not state.startswith("absent")]

    def _all(self, state: str, sites: Sequence[str]) -> None:
        self.states.update(dict.fromkeys(sites, state))


ANSWERED = {
    "prepare": "ready",
    "train": "answered with its update",
    "evaluate": "answered with its figures",
    "personalize": "answered with its personal model's figures",
}


def _of_one_site(event: Mapping[str, Any]) -> str:
    """What became of a site, by an event that names it."""
    if event["event"] == "reply":
        number = f"round {event['version'] + 1}: " if event["task"] == "train" else ""
        return number + ANSWERED.get(event["task"], "answered")
    return f"{event['event']}: {event['reason']}"


def _print_line(event: dict[str, Any]) -> None:
    told = line(event)
    if told is not None:
        console.print(printable(told), markup=False, highlight=False, soft_wrap=True)


def line(event: Mapping[str, Any]) -> str | None:
    """A progress event as one line; None for an event that this version does not know."""
    match event["event"]:
        case "reply" | "refused" | "absent":
            return f"{event['site']}: {_of_one_site(event)}"
        case "notice":
            return str(event["reason"])
        case "prepared":
            return f"{len(event['sites'])} sites take part: {', '.join(event['sites'])}; {event['rounds']} rounds"
        case "round":
            heard = f"{event['updates']} of {event['participants']} updates"
            value = event.get("validation")
            shown = "" if value is None else f", validation {value:.3f}"
            return f"round {event['round']} of {event['of']}: {heard}{shown}, {event['seconds']:.1f} s"
        case "personalise":
            return f"personal models and last figures, {event['keep']} global model"
        case "injection":
            return injection_needs(event)
        case "injecting":
            return f"round {event['round']}: injecting step {event['step']} of {event['of']}"
        case "asking":
            return f"asking {event['task']}"
        case "failed":
            return f"failed: {event['reason']}"
        case "finished":
            return f"finished after {event['rounds']} rounds, {event['seconds']:.0f} s"
    return None


def printable(text: str) -> str:
    """A text without control characters: what a site says must not steer the reader's terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


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


def answers(records: Sequence[Record]) -> Table:
    """AUROC on the server's test cases by task: of the injected models, and of what each must beat."""
    first = records[0].injection
    assert first is not None  # the caller has looked
    columns = {record.run.name: record for record in records}
    table = Table(
        title="Test AUROC by task; the injected language model of each run, then the yardsticks of the first",
        caption="* trained by the sites; the others nobody has trained. Intervals and open answers are in report.html.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("task", no_wrap=True)
    for name in [*columns, "small model", "linear", "majority"]:
        table.add_column(name, justify="right")
    for task in [*first.seen, *first.unseen]:
        injected = [_auroc(record, "injected", task) for record in columns.values()]
        others = [_auroc(records[0], who, task) for who in ("extractor", "linear", "majority")]
        table.add_row(f"{task}{'*' if task in first.seen else ''}", *injected, *others)
    return table


def _auroc(record: Record, who: Answerer, task: str) -> str:
    found = None if record.injection is None else record.injection.test.get(who, {}).get(task)
    value = None if found is None or found.closed is None else found.closed.auroc
    return UNDEFINED if value is None else f"{value:.3f}"


def _cell(found: Spread, factor: float) -> str:
    if found.mean is None:
        return UNDEFINED
    digits = 1 if factor == 100 else 3
    mean = f"{factor * found.mean:.{digits}f}"
    return mean if found.sd is None else f"{mean}±{factor * found.sd:.{digits}f}"
