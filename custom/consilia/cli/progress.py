"""What the command line prints while runs go on: on a terminal a bar with the time left, in a log a line a round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from consilia.cli.console import console
from consilia.core.events import (
    Back,
    Begun,
    Event,
    Failed,
    Finished,
    Found,
    Notice,
    Personalizing,
    Prepared,
    Replied,
    RoundDone,
    ServerWorks,
    SiteEvent,
    SiteTrouble,
    Standing,
    TrainedAlone,
    Warned,
)
from consilia.core.events import Progress as Listener
from consilia.core.plain import plain

COLUMNS_OF_BAR = (
    TextColumn("{task.description}", markup=False),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("rounds, left"),
)


class RunView:
    """Shows the events of runs, one run after another: on a terminal a bar for each, else a line an event."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._follower: Follower | RoundLines | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __call__(self, name: str, event: Event) -> None:
        """Show an event of the run of that name."""
        if isinstance(event, Found):
            self._close()
            console.print(f"{name}: {event}", highlight=False)
        elif isinstance(event, Begun):
            self._close()
            self._open(name, event.rounds)
        if self._follower is not None:
            self._follower(event)

    def _open(self, name: str, rounds: int) -> None:
        if not console.is_terminal:
            self._follower = RoundLines(name)
            return
        self._bar = Progress(*COLUMNS_OF_BAR, TimeRemainingColumn(), console=console)
        self._bar.start()
        self._follower = Follower(self._bar, name, rounds)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._follower = None


class StudyView(RunView):
    """The same of a study, and after each run where it stands.

    Of runs that go on at the same time only the beginning, the end and what went wrong is shown.
    """

    def __init__(self) -> None:
        super().__init__()
        self._going: set[str] = set()
        self._several = False

    def __call__(self, name: str, event: Event) -> None:
        """Show an event of the run of that name, or of the study."""
        if isinstance(event, Begun):
            self._several = self._several or bool(self._going)
            self._going.add(name)
        elif isinstance(event, Finished | Failed):
            self._going.discard(name)
        if isinstance(event, Standing):
            self._close()
            console.print(plain(event), highlight=False, soft_wrap=True)
        elif not self._several:
            super().__call__(name, event)
        elif isinstance(event, Begun | Finished | Failed | Warned | SiteTrouble | Found):
            self._close()
            console.print(plain(f"{name}: {event}"), highlight=False, soft_wrap=True)


class RoundLines:
    """A line for every event that a reader of a log wants to see; after a round the time left, by the mean so far."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._clock = RoundClock()

    def __call__(self, event: Event) -> None:
        match event:
            case RoundDone():
                console.print(f"{self._name}: {self._clock.line(event)}", highlight=False, soft_wrap=True)
            case Prepared() if not event.done:
                pass
            case Replied() | Failed():
                pass  # A failure is the command's last word.
            case ServerWorks() if event.step not in (None, event.of):
                pass
            case Prepared():
                console.print(f"{self._name}: {resuming(event)}", highlight=False)
            case _:
                console.print(f"{self._name}: {plain(event)}", highlight=False, soft_wrap=True)


class RoundClock:
    """The line of a round with the seconds that it took and the time left, by the mean of the rounds so far."""

    def __init__(self) -> None:
        self._rounds: list[float] = []
        self._last = monotonic()

    def line(self, event: RoundDone) -> str:
        """The line of the round that has just ended."""
        now = monotonic()
        took = now - self._last
        self._rounds.append(took if event.seconds is None else event.seconds)
        self._last = now
        left = sum(self._rounds) / len(self._rounds) * (event.of - event.round)
        seconds = f", {took:.1f} s" if event.seconds is None else ""
        return f"{event}{seconds}, left {timedelta(seconds=round(left))}"


class Follower:
    """Turns a run's events into a progress bar and a few lines."""

    def __init__(self, bar: Progress, name: str, rounds: int | None) -> None:
        self._bar = bar
        self._task = bar.add_task(f"{name}: starting", total=rounds)
        self._name = name

    def __call__(self, event: Event) -> None:
        match event:
            case Prepared():
                if event.done:
                    self._bar.console.print(resuming(event), highlight=False)
                self._update(f"{self._name}: training", total=event.rounds, completed=event.done)
            case RoundDone():
                shown = event.shown_validation and f", {event.shown_validation}"
                self._update(f"{self._name}: training{shown}", total=event.of, completed=event.round)
            case TrainedAlone():
                rounds = self._bar.tasks[self._task].total or 0
                self._update(f"{self._name}: {plain(event)}", completed=int(rounds * event.number / event.of))
            case Warned():
                self._bar.console.print(plain(event), style="yellow")
            case SiteTrouble():
                self._bar.console.print(plain(f"{event.site}: {event.reason}"), style="yellow")
            case Back():
                self._bar.console.print(plain(event), highlight=False)
            case Finished():
                self._update(f"{self._name}: done in {event.seconds:.0f} s", completed=event.rounds)
            case Personalizing() | ServerWorks() | Notice():
                self._update(f"{self._name}: {plain(event)}")

    def _update(self, text: str, *, total: int | None = None, completed: int | None = None) -> None:
        self._bar.update(self._task, description=text, total=total, completed=completed)


def resuming(event: Prepared) -> str:
    """That a run goes on, and where."""
    return f"Resuming after round {event.done}."


@contextmanager
def job_view(name: str) -> Iterator[Listener]:
    """What is told the events of a job that runs elsewhere: on a terminal a live view, else a line per event."""
    if not console.is_terminal:
        clock = RoundClock()

        def line(event: Event) -> None:
            text = clock.line(event) if isinstance(event, RoundDone) else event
            console.print(plain(text), highlight=False, soft_wrap=True)

        yield line
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
