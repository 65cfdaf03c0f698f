"""What a site has taken part in, and how it forgets a run."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from consilia.core.clock import timestamp
from consilia.core.errors import ConfigError
from consilia.core.files import append_text, refuse_links
from consilia.core.lock import locked
from consilia.data.site import LEDGER, RUNS
from consilia.federation.run_folder import LOCK
from consilia.federation.site_gate import disk_used
from consilia.federation.site_ledger import CLOSED, LedgerEntry, entries

FORGOTTEN = "forgotten.jsonl"
"""In ``state_dir``: a line for every run that was forgotten."""


@dataclass(frozen=True)
class SiteRun:
    """One run at a site.

    Attributes:
        run: its id.
        entry: what it has spent; None for a run from before there were limits.
        closed: its approval was taken back.
        disk: bytes that the site keeps of it; None: nothing any more.
    """

    run: str
    entry: LedgerEntry | None
    closed: bool
    disk: int | None


def site_runs(state_dir: Path) -> list[SiteRun]:
    """The runs of which the site keeps something, or knows what they have spent; the oldest first."""
    ledger = state_dir / LEDGER
    opened = [path for path in ledger.glob("*") if path.name != CLOSED]
    found = [
        SiteRun(entry.run, entry, folder.parent.name == CLOSED, _disk(state_dir / RUNS / entry.run))
        for folder in (*opened, *(ledger / CLOSED).glob("*"))
        for entry in entries(folder)
    ]
    known = {run.run for run in found}
    others = (path for path in _folders(state_dir) if path.name not in known)
    found += [SiteRun(path.name, None, False, _disk(path)) for path in others]
    return sorted(found, key=lambda run: (run.entry.began if run.entry else "", run.run))


def forget_run(state_dir: Path, run: str) -> int:
    """Remove everything that the site keeps of a run, personal models included; a line of it stays, and its spending.

    Returns:
        The bytes that were removed.

    Raises:
        ConfigError: there is no such run, or a symbolic link is among its files.
        RunFailed: the run is going on.
    """
    folder = state_dir / RUNS / run
    there = sorted(path.name for path in _folders(state_dir))
    if run not in there:
        raise ConfigError(f"{state_dir / RUNS} has no run {run!r}; it has {', '.join(there) or 'none'}")
    refuse_links(state_dir, folder)
    with locked(folder / LOCK):
        size = disk_used(folder)
        line = {"at": timestamp(), "run": run, "bytes": size}
        append_text(state_dir / FORGOTTEN, json.dumps(line) + "\n")
        # It does not follow links either.
        shutil.rmtree(folder)
    return size


def _folders(state_dir: Path) -> list[Path]:
    """Of the runs; a link to a folder is among them, to be named where it is refused."""
    return [path for path in (state_dir / RUNS).glob("*") if path.is_dir()]


def _disk(folder: Path) -> int | None:
    return disk_used(folder) if folder.is_dir() and not folder.is_symlink() else None
