"""Carry out a plan: several runs at once, each in a process of its own, until all are done or the budget is spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from consilia.core.events import Event, Found, Standing
from consilia.federation.run_folder import RESULT
from consilia.record.files import load_record
from consilia.study.one_run import EngineName, Work, try_one
from consilia.study.outcome import Failure, read_cost
from consilia.study.plan import Planned
from consilia.study.processes import Processes

StudyProgress = Callable[[str, Event], None]
"""Called with every event of a study's runs, after the name of the run."""


def execute(
    plan: Sequence[Planned],
    *,
    engine: EngineName,
    jobs: int = 1,
    budget: float | None = None,
    spent: float = 0.0,
    progress: StudyProgress,
) -> list[Planned]:
    """Make every run of a plan that is still to be made. Seeds and folds come before methods: what is done compares.

    Args:
        plan: the runs.
        engine: what runs a configuration.
        jobs: runs at a time; more than one have processes of their own.
        budget: core-hours of all runs, those of earlier calls among them; when they are spent, no further run begins.
            None: no end.
        spent: core-hours of runs that are not in the plan.
        progress: called with the name of a run and each of its events; with "" and where the study stands.

    Returns:
        The plan with what became of each run.

    Raises:
        ConsiliaError: the study cannot go on.
    """
    board = _Board(plan, jobs, budget, spent, progress)
    for planned in plan:
        if planned.status == "done":
            progress(planned.name, Found())
    if jobs == 1:
        for place in board.waiting():
            board.ended(place, try_one(board.work(place, engine), partial(progress, plan[place].name)))
    else:
        with Processes(jobs) as processes:
            for place in board.waiting():
                processes.begin(place, board.work(place, engine))
                _hear(processes, board, until=jobs - 1)
            _hear(processes, board, until=0)
    return board.found


def _hear(processes: Processes, board: _Board, until: int) -> None:
    """Pass on what is heard of the runs that go on, until no more than so many do."""
    while processes.running() > until:
        events, ended = processes.hear()
        for place, event in events:
            board.progress(board.found[place].name, event)
        for place, failure in ended:
            board.ended(place, failure)


class _Board:
    """What became of each run of a plan so far, and what is left to do."""

    def __init__(
        self, plan: Sequence[Planned], jobs: int, budget: float | None, spent: float, progress: StudyProgress
    ) -> None:
        self.found = list(plan)
        self.progress = progress
        self._jobs, self._budget = jobs, budget
        self._elsewhere = spent
        self._core_seconds = {place: read_cost(planned.folder).core_seconds for place, planned in enumerate(plan)}
        self._seconds: dict[str, list[float]] = {}
        places = [(one.federation.data, one.federation.option, one.federation.left_out) for one in plan]
        first = {place: number for number, place in reversed(list(enumerate(places)))}
        waiting = [number for number, one in enumerate(plan) if one.status is None]
        self._left = sorted(
            waiting, key=lambda number: (first[places[number]], plan[number].seed, plan[number].federation.fold)
        )

    def waiting(self) -> Iterator[int]:
        """The runs to begin, one after another, while the budget lasts."""
        while self._left and not self._spent():
            yield self._left.pop(0)
        for place in self._left:
            self.found[place] = self.found[place].ended("not run", "the budget is spent")
        self._left.clear()

    def work(self, place: int, engine: EngineName) -> Work:
        """What is to be done for a run."""
        planned = self.found[place]
        assert planned.config is not None
        # The study's report is what a person looks at; a run's own is made of its record when it is wanted.
        unseen, new_site = planned.federation.unseen or "", planned.new_site
        return Work(
            planned.config,
            planned.sites,
            planned.folder,
            engine,
            planned.baseline,
            pages=False,
            unseen=unseen,
            new_site=new_site,
        )

    def ended(self, place: int, failure: Failure | None) -> None:
        """A run has come to its end."""
        planned = self.found[place]
        if failure is None:
            record = load_record(planned.folder / RESULT) if planned.new_site is None else None
            self.found[place] = planned.ended("done", record=record)
        else:
            self.found[place] = planned.ended(failure.status, failure.reason)
        cost = read_cost(planned.folder)
        self._core_seconds[place] = cost.core_seconds
        self._seconds.setdefault(planned.label, []).append(cost.seconds)
        self.progress("", self._standing())

    def _spent(self) -> bool:
        return self._budget is not None and self._core_hours() >= self._budget

    def _core_hours(self) -> float:
        return self._elsewhere + sum(self._core_seconds.values()) / 3600

    def _standing(self) -> Standing:
        running = [one.label for one in self.found if one.status is None]
        known = [value for values in self._seconds.values() for value in values]
        left = sum(_mean(self._seconds.get(label, known)) for label in running) / self._jobs
        return Standing(
            done=len(self.found) - len(running),
            of=len(self.found),
            core_hours=self._core_hours(),
            seconds_left=left,
            budget=self._budget,
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
