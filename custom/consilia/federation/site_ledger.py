"""What runs have spent of a site's limits, on the site's disk: a killed process or a resumed run starts nothing anew.

``state_dir/ledger/<digest>/<run id>.json``, one folder per approval: the digest is that of the job's manifest, in which
label and seed of a run are not. Counts go up before the work begins.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, ValidationError

from consilia.core.clock import timestamp
from consilia.core.errors import ConfigError
from consilia.core.files import make_private, refuse_links
from consilia.core.schema import Strict, explain
from consilia.data.site import LEDGER

CLOSED = "closed"
"""Folder of the ledgers of approvals that were taken back."""

BLOCK = 1024


class Spent(Strict):
    """What one run, or all runs of an approval, have spent: requests to train, requests with metrics, seconds."""

    rounds: int = Field(0, ge=0)
    evaluations: int = Field(0, ge=0)
    seconds: float = Field(0.0, ge=0)

    def plus(self, other: Spent) -> Spent:
        """The sum of both."""
        return Spent(
            rounds=self.rounds + other.rounds,
            evaluations=self.evaluations + other.evaluations,
            seconds=self.seconds + other.seconds,
        )


class LedgerEntry(Strict):
    """One run at one site; ``began`` and ``last`` are ISO 8601."""

    run: str
    label: str
    method: str
    manifest: str
    began: str
    last: str
    spent: Spent = Spent()


def ledger_folder(state_dir: Path, digest: str) -> Path:
    """Where the runs of one approval are."""
    return state_dir / LEDGER / digest.removeprefix("sha256:")


def entries(folder: Path) -> Iterator[LedgerEntry]:
    """The runs in the folder of one approval, by run id.

    Raises:
        ConfigError: a file is damaged. What it held counts, so nothing goes on without it.
    """
    for path in sorted(folder.glob("*.json")):
        if (entry := read_entry(path)) is not None:
            yield entry


def read_entry(path: Path) -> LedgerEntry | None:
    """One run's file, None where nothing was spent; raises ConfigError as above."""
    todo = f"{path}: damaged; put a copy back, or begin anew with consilia site approve JOB --withdraw, then without"
    try:
        text = path.read_bytes() if path.is_file() else b""
        # Empty: the process was killed between making the file and its first line, before any work.
        return LedgerEntry.model_validate(json.loads(text)) if text else None
    except ValidationError as error:
        raise ConfigError(explain(error, todo)) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{todo} ({type(error).__name__})") from error


def write_entry(path: Path, entry: LedgerEntry) -> None:
    """Write one run's file over the old one, in one piece: a process that is killed leaves either.

    Another file in its place, as :mod:`consilia.core.files` has it, takes some file systems 10 ms.
    """
    text = entry.model_dump_json().encode()
    make_private(path.parent)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        # Within one block; JSON may end in blanks.
        os.write(handle, text.ljust(-(-len(text) // BLOCK) * BLOCK))
    finally:
        os.close(handle)


def total(folder: Path) -> Spent:
    """What all runs of one approval have spent."""
    spent = Spent()
    for entry in entries(folder):
        spent = spent.plus(entry.spent)
    return spent


def close_ledger(state_dir: Path, digest: str) -> Path | None:
    """Put the ledger of an approval aside, so that a new approval starts anew; where it is now, None without one.

    Raises:
        ConfigError: a symbolic link is in its place.
    """
    folder = ledger_folder(state_dir, digest)
    target = state_dir / LEDGER / CLOSED / f"{folder.name}-{timestamp().replace(':', '')}"
    refuse_links(state_dir, folder, target.parent)
    if not folder.is_dir():
        return None
    if not target.parent.is_dir():
        make_private(target.parent)
        # Root may take an approval back; the site's own user reads what it was.
        owner = folder.stat()
        os.chown(target.parent, owner.st_uid, owner.st_gid)
    folder.rename(target)
    return target
