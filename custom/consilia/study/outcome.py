"""What a run of a study leaves beside its record: what it cost, or why there is no record."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeFloat

from consilia.core.files import write_json
from consilia.core.schema import Strict
from consilia.data.yaml_file import read_yaml, validate

COST = "cost.json"
FAILURE = "failed.json"


class Cost(Strict):
    """What a run has taken: seconds by the clock, and of the processor."""

    seconds: NonNegativeFloat
    core_seconds: NonNegativeFloat


class Failure(Strict):
    """A run that has no result. Of one that failed the file says so: remove it to try the run again."""

    run_id: str
    status: Literal["failed", "cannot"]
    reason: str


def write_outcome(folder: Path, outcome: Cost | Failure) -> None:
    """Write it into the folder of the run."""
    write_json(folder / (COST if isinstance(outcome, Cost) else FAILURE), outcome.model_dump(mode="json"))


def read_cost(folder: Path) -> Cost:
    """What the run in a folder has taken; nothing where none is written down."""
    file = folder / COST
    return validate(Cost, read_yaml(file), file) if file.is_file() else Cost(seconds=0, core_seconds=0)


def core_hours(folder: Path, without: Collection[Path] = ()) -> float:
    """What all runs below a folder have taken, but for those in the folders ``without``."""
    apart = set(without)
    places = (file.parent for file in folder.rglob(COST))
    return sum(read_cost(place).core_seconds for place in places if place not in apart) / 3600


def read_failure(folder: Path, run_id: str) -> Failure | None:
    """Why the run of this configuration has no result, if that is known."""
    file = folder / FAILURE
    found = validate(Failure, read_yaml(file), file) if file.is_file() else None
    return found if found is not None and found.run_id == run_id else None
