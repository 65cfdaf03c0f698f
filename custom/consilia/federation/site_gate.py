"""Holds every request of a run to the site's limits: before the work begins, and while it goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from consilia.core.clock import timestamp
from consilia.core.files import make_private, refuse_links
from consilia.core.lock import locked
from consilia.data.limits import reached, show_bytes
from consilia.data.site import RUNS, SiteConfig
from consilia.federation.config import RunConfig
from consilia.federation.messages import Request
from consilia.federation.site_ledger import LedgerEntry, Spent, ledger_folder, read_entry, total, write_entry
from consilia.federation.site_limits import compared, require

LOOK_SECONDS = 0.5
"""Time and memory are looked at so often while a request is worked on."""

NOTE_SECONDS = 10.0
"""And the time that is spent is written down so often: what a killed process may get for nothing."""

PATIENCE_SECONDS = 60.0


class SiteGate:
    """The limits of one site for one run.

    Args:
        config: the run.
        settings: of the site's own file.
        digest: of the run's manifest: runs with the same are counted together.
        training_cases: of the site, by dataset.
    """

    def __init__(self, config: RunConfig, settings: SiteConfig, digest: str, training_cases: Mapping[str, int]) -> None:
        self.limits, self.state_dir = settings.limits, settings.state_dir
        self.digest = digest
        self._rows = compared(config, settings.limits, training_cases=training_cases)
        self.trains = settings.site not in config.test_only_sites and any(training_cases.values())
        self.folder = ledger_folder(settings.state_dir, digest)
        self.file = self.folder / f"{config.run_id}.json"
        self._run = settings.state_dir / RUNS / config.run_id
        self._new = LedgerEntry(
            run=config.run_id,
            label=config.label,
            method=config.method.method,
            manifest=digest,
            began=timestamp(),
            last=timestamp(),
        )
        self._entry: LedgerEntry | None = None
        self._process = psutil.Process()
        self._began: float | None = None
        self._looked = self._noted = 0.0
        self._before = Spent()

    @contextmanager
    def opened(self, request: Request) -> Iterator[None]:
        """Count a request, and work on it inside the block.

        Raises:
            LimitReached: the site does not allow it, or not any more.
            ConfigError: a symbolic link is among the site's own files.
        """
        refuse_links(self.state_dir, self._run, self.file)
        if request.kind in ("train", "personalize") or (request.kind == "prepare" and self.trains):
            require(self._rows)
        self._require_disk()
        cost = Spent(
            rounds=int(request.kind == "train"),
            evaluations=int(request.evaluate or request.kind in ("evaluate", "personalize")),
        )
        self._spend(cost)
        self._began = self._noted = time.monotonic()
        try:
            yield
        finally:
            self._note_time()
            self._began = None

    def poll(self) -> None:
        """Called again and again while a request is worked on.

        Raises:
            LimitReached: the time is spent, or the process has grown too large.
        """
        moment = time.monotonic()
        if self._began is None or moment - self._looked < LOOK_SECONDS:
            return
        self._looked = moment
        if moment - self._noted >= NOTE_SECONDS:
            self._note_time()
        hours = self.limits.max_hours
        if hours is not None and self._before.seconds + moment - self._began > hours * 3600:
            raise reached("max_hours", "more time", f"{hours:g} hours in all")
        memory = self.limits.max_memory
        if memory is not None and (used := self._process.memory_info().rss) > memory:
            raise reached("max_memory", show_bytes(used), show_bytes(memory))

    def _spend(self, cost: Spent) -> None:
        limits = self.limits
        # A study without limits may have hundreds of runs: the others' are not read.
        if limits.max_rounds is limits.max_evaluations is limits.max_hours is None:
            self._add(cost)
            return
        # Of two jobs at a time each must see what the other has spent.
        make_private(self.folder)
        with locked(self.folder / "lock", PATIENCE_SECONDS):
            self._require_left(cost)
            self._add(cost)

    def _require_left(self, cost: Spent) -> None:
        limits = self.limits
        spent = self._before = total(self.folder)
        for name, before, more, allowed in (
            ("max_rounds", spent.rounds, cost.rounds, limits.max_rounds),
            ("max_evaluations", spent.evaluations, cost.evaluations, limits.max_evaluations),
        ):
            if allowed is not None and more and before + more > allowed:
                raise reached(name, f"number {before + more:,} of these requests", f"{allowed:,} per approval")
        if limits.max_hours is not None and spent.seconds >= limits.max_hours * 3600:
            raise reached("max_hours", f"more than {spent.seconds / 3600:.3g} hours", f"{limits.max_hours:g} in all")

    def _require_disk(self) -> None:
        allowed = self.limits.max_disk
        if allowed is not None and (used := disk_used(self.state_dir)) >= allowed:
            raise reached("max_disk", f"more than the {show_bytes(used)} in state_dir", show_bytes(allowed))

    def _note_time(self) -> None:
        moment = time.monotonic()
        self._add(Spent(seconds=moment - self._noted))
        self._noted = moment

    def _add(self, cost: Spent) -> None:
        """To this run's own file, which no other process writes."""
        # Gone while the job runs: its approval was taken back, and what was spent under it does not count for the next.
        entry = (self._entry if self.file.is_file() else None) or read_entry(self.file) or self._new
        self._entry = entry.model_copy(update={"last": timestamp(), "spent": entry.spent.plus(cost)})
        write_entry(self.file, self._entry)


def disk_used(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed."""
    return sum(_size(Path(place, name)) for place, _, names in os.walk(folder) for name in names)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    # Another job at the site has put its file in place, or removed it, since the folder was read.
    except FileNotFoundError:
        return 0
