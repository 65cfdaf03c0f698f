"""What a run says while it goes on: one class an event, each with the line that a reader sees.

Events cross processes as JSON, one a line of ``progress.jsonl``; :func:`read_event` is the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, ClassVar

from pydantic import ValidationError

from consilia.core.plain import plain_json
from consilia.core.schema import Strict

REPLIED = {
    "prepare": "ready",
    "train": "answered with its update",
    "evaluate": "answered with its metrics",
    "personalize": "answered with its personal model's metrics",
}


class Event(Strict):
    """Base of all events. ``str(event)`` is its line; ``name`` is its key ``event`` in JSON."""

    name: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"event": self.name, **self.model_dump(mode="json")}


class SiteEvent(Event):
    """An event of one site; ``state`` says what became of it."""

    site: str

    @property
    def state(self) -> str:
        """What became of the site, in a few words."""
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{self.site}: {self.state}"


class Replied(SiteEvent):
    """A site's reply to a request was accepted; ``version`` is that of the global model it is about."""

    name = "reply"
    request: str
    version: int

    @property
    def state(self) -> str:
        number = f"round {self.version + 1}: " if self.request == "train" else ""
        return number + REPLIED.get(self.request, "answered")


class SiteTrouble(SiteEvent):
    """Something about a site that has a reason."""

    reason: str

    @property
    def state(self) -> str:
        return f"{self.name}: {self.reason}"


class Refused(SiteTrouble):
    """A site's reply to a request was refused."""

    name = "refused"
    request: str


class Absent(SiteTrouble):
    """A site takes no part in the run."""

    name = "absent"


class Missing(SiteTrouble):
    """A site has not answered ``since`` it was asked, and others have; it may be waited for, and asked again."""

    name = "missing"
    since: str


class Back(SiteEvent):
    """A site that was missing answers again."""

    name = "back"

    @property
    def state(self) -> str:
        return "answers again"


class Notice(Event):
    """Something that whoever follows the run should know."""

    name = "notice"
    reason: str

    def __str__(self) -> str:
        return self.reason


class Warned(Notice):
    """Something that puts a run's results in doubt; the record has it, too."""

    name = "warning"

    def __str__(self) -> str:
        return f"warning: {self.reason}"


class Begun(Event):
    """Whoever started the run has handed it to an engine; ``rounds`` are planned."""

    name = "begun"
    rounds: int

    def __str__(self) -> str:
        return "running"


class Found(Event):
    """The run's record is there already."""

    name = "found"

    def __str__(self) -> str:
        return "record found, not run again"


class Prepared(Event):
    """The run begins with these sites, or goes on with them after ``done`` of its rounds."""

    name = "prepared"
    sites: list[str]
    rounds: int
    done: int = 0

    def __str__(self) -> str:
        text = f"{len(self.sites)} sites take part: {', '.join(self.sites)}; {self.rounds} rounds"
        return f"{text}, {self.done} of them done before" if self.done else text


class RoundDone(Event):
    """A round is complete and in the checkpoint.

    Attributes:
        round: its number, of ``of``.
        updates: accepted ones, of ``participants`` asked for one; None where no sites train, as in a baseline.
        validation: validation ``metric`` of the model that the round began with, where it was evaluated.
        seconds: that it took.
    """

    name = "round"
    round: int
    of: int
    updates: int | None = None
    participants: int | None = None
    validation: float | None = None
    metric: str | None = None
    seconds: float | None = None

    @property
    def shown_validation(self) -> str:
        """The validation value with its metric's name; empty where there is none."""
        if self.validation is None:
            return ""
        return f"validation {self.metric.replace('_', ' ') + ' ' if self.metric else ''}{self.validation:.3f}"

    def __str__(self) -> str:
        parts = [] if self.updates is None else [f"{self.updates} of {self.participants} updates"]
        parts += [] if self.validation is None else [self.shown_validation]
        parts += [] if self.seconds is None else [f"{self.seconds:.1f} s"]
        return f"round {self.round} of {self.of}" + (f": {', '.join(parts)}" if parts else "")


class TrainedAlone(SiteEvent):
    """A site has trained a model of its own over all rounds, as the ``number``-th ``of`` so many, in a baseline."""

    name = "alone"
    number: int
    of: int

    @property
    def state(self) -> str:
        return f"trained alone, site {self.number} of {self.of}"


class ServerWorks(Event):
    """The method works at the server after a round; ``step`` of ``of``, where its steps are counted."""

    name = "server"
    doing: str
    round: int | None = None
    step: int | None = None
    of: int | None = None

    def __str__(self) -> str:
        where = "" if self.round is None else f"round {self.round}: "
        return where + self.doing + ("" if self.step is None else f" step {self.step} of {self.of}")


class Personalizing(Event):
    """The rounds are over: sites make personal models of the last or the best global model."""

    name = "personalize"
    keep: str
    sites: list[str]

    def __str__(self) -> str:
        return f"personal models and last metrics, {self.keep} global model"


class Failed(Event):
    """The run cannot go on."""

    name = "failed"
    reason: str

    def __str__(self) -> str:
        return f"failed: {self.reason}"


class Finished(Event):
    """The run is complete, and its results are where they belong."""

    name = "finished"
    rounds: int
    seconds: float

    def __str__(self) -> str:
        after = f" after {self.rounds} round{'' if self.rounds == 1 else 's'}" if self.rounds else ""
        return f"finished{after}, {self.seconds:.0f} s"


Progress = Callable[[Event], None]
"""Who is told about a run's events."""


class Standing(Event):
    """Where a study of several runs stands: how many are done, the time left, and what they have cost so far.

    ``budget``: core-hours; null: none is set.
    """

    name = "standing"
    done: int
    of: int
    core_hours: float
    seconds_left: float | None = None
    budget: float | None = None

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", left {timedelta(seconds=round(self.seconds_left))}"
        budget = "" if self.budget is None else f" of {self.budget:g}"
        return f"{self.done} of {self.of} runs done{left}, {self.core_hours:.2f}{budget} core-hours"


def no_progress(event: Event) -> None:
    """For callers that do not need the events."""


KINDS: dict[str, type[Event]] = {
    kind.name: kind
    for kind in (
        Begun, Found, Replied, Refused, Absent, Missing, Back, Notice, Warned, Prepared, RoundDone, TrainedAlone,
        ServerWorks, Personalizing, Failed, Finished, Standing,
    )
}  # fmt: skip


def read_event(values: Mapping[str, Any]) -> Event | None:
    """An event from its JSON, which is of another process; None for one that this version does not know."""
    values = plain_json(dict(values))
    kind = KINDS.get(str(values.get("event")))
    try:
        return None if kind is None else kind.model_validate({k: v for k, v in values.items() if k != "event"})
    except ValidationError:
        return None
