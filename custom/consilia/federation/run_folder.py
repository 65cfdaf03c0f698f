"""A run's state at the server: one job at a time works on it, and a clone of a job goes on where that stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from consilia.core.errors import RunFailed
from consilia.core.events import Event, Finished, Progress, no_progress, read_event
from consilia.core.lock import locked
from consilia.core.stop import never

LOCK = ".lock"
PROGRESS, RESULT = "progress.jsonl", "result.json"
"""What the run tells while it goes on, and the record when it has come to its end."""

ORPHAN_SECONDS = 100.0
"""A process whose server or parent was killed may live on for a minute; who goes on with its run waits for that."""


def take_over(earlier: Path, folder: Path, should_stop: Callable[[], bool] = never) -> None:
    """Move a stopped run's state to the folder of the job that goes on with it.

    Of a run that had come to its end only that end is left to do: personalising, and writing the outputs. What the
    earlier job told of itself, :data:`PROGRESS` and :data:`RESULT`, is removed.

    Args:
        earlier: the folder of the job that this one is a clone of.
        folder: this job's; nothing is moved where it is there already.
        should_stop: polled while waiting for the earlier job's process to end.

    Raises:
        RunFailed: the earlier job still runs, or has left nothing. To begin anew instead would look like going on.
    """
    if folder.exists():
        return
    # Whatever else may have such a name: where a run has begun there is its lock.
    if not (earlier / LOCK).is_file():
        raise RunFailed(
            f"there is nothing to go on with in {earlier}: that job never began its run, or another clone has gone on "
            "with it. Resume that clone, or the job that this one was made of; to begin anew, submit the job"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(earlier / LOCK, ORPHAN_SECONDS, should_stop):
        # Before anybody who follows the new job looks there.
        remove_outputs(earlier)
        earlier.rename(folder)


def remove_outputs(folder: Path) -> None:
    """Remove what a job's process has told of the run, that it is not taken for what the next one tells."""
    for name in (PROGRESS, RESULT):
        (folder / name).unlink(missing_ok=True)


def recorded(folder: Path, progress: Progress = no_progress) -> Progress:
    """``progress``, with a line in :data:`PROGRESS` for every event before it is passed on: every engine leaves one."""

    def record(event: Event) -> None:
        # A full disk must not make of a note the reason why a run ends.
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / PROGRESS).open("a") as file:
                file.write(json.dumps(event.to_json()) + "\n")
        progress(event)

    return record


def ended_before(folder: Path) -> bool | None:
    """Whether the run has come to its end in a process of this job's that was killed, and that this one stands in for.

    None: this process is the job's first. The event that the killed process was just writing is removed.
    """
    progress = folder / PROGRESS
    if not progress.is_file():
        return None
    whole, ends, _ = progress.read_bytes().rpartition(b"\n")
    progress.write_bytes(whole + ends)
    return bool(whole) and isinstance(read_event(json.loads(whole.rpartition(b"\n")[2])), Finished)
