"""Who answers the open requests, who is late, who is missing: for how long a request waits for its sites.

- A site has ``round_timeout`` for a request. One that does not answer in it is missing from then on.
- Nobody waits for a missing site longer than for the slowest of the others plus a grace, until it answers again. So a
  site that vanishes costs a run at most one ``round_timeout``, in its rounds and its final evaluations together.
- Whoever follows the run is told of a site as soon as it is later than the slowest that answers the same kind of
  request, and than itself before, by the grace; the wait for it goes on.

Only how long the server waits depends on the clock. Who is sampled does not, so a run has the same bytes as one in
which the same sites do not answer the same requests for any other reason.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from consilia.core.clock import timestamp
from consilia.core.events import Back, Missing, Progress
from consilia.federation.messages import RequestKind
from consilia.federation.recorder import Recorder
from consilia.record.schema import Absence

PREPARE_SECONDS = 600.0
"""How long a site may take to load its data and build its model before the run starts without it."""

GRACE_SECONDS, GRACE_SHARE = 10.0, 0.5
"""How much longer than the slowest of the others a site may take: 10 s, or half as long again if that is more."""


def with_grace(seconds: float) -> float:
    """How long to wait for a site where others took at most ``seconds``."""
    return seconds + max(GRACE_SECONDS, GRACE_SHARE * seconds)


class Attendance:
    """Watches the answers to the open requests, at most one for each site.

    Args:
        recorder: of the run; its record holds the absences.
        round_timeout: seconds that a site has for a request; 0 = for ever. To prepare it always has the same.
        progress: told who is missing, and who is back.
        clock: seconds from any moment on.
    """

    def __init__(
        self, recorder: Recorder, round_timeout: float, progress: Progress, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._recorder, self._round_timeout, self._progress, self._clock = recorder, round_timeout, progress, clock
        # Sites answer in threads of the engine's.
        self._lock = threading.Lock()
        self._asked: Mapping[str, RequestKind] = {}
        self._answered: set[str] = set()
        self._took: dict[str, float] = {}
        self._opened, self._since = 0.0, datetime.now(UTC)
        self._reported: set[str] = set()
        self._longest: dict[tuple[str, RequestKind], float] = {}

    def open(self, asked: Mapping[str, RequestKind]) -> None:
        """Requests are sent to these sites now."""
        with self._lock:
            self._asked, self._answered, self._took = dict(asked), set(), {}
            self._opened, self._since = self._clock(), datetime.now(UTC)

    def heard(self, site: str, *, failed: bool = False) -> None:
        """A site has answered the request that is open for it; one that failed says nothing of how long it takes."""
        with self._lock:
            if site in self._asked and site not in self._answered:
                self._answered.add(site)
                if not failed:
                    key, took = (site, self._asked[site]), self._clock() - self._opened
                    self._took[site] = took
                    self._longest[key] = max(took, self._longest.get(key, 0.0))
            self._welcome(site)

    def heard_late(self, site: str) -> None:
        """A site is ready with its answer to a request that is closed."""
        with self._lock:
            self._welcome(site)

    def is_waiting(self) -> bool:
        """Whether an answer is still to come that is worth waiting for; tells who is late."""
        with self._lock:
            elapsed, outstanding = self._clock() - self._opened, self._asked.keys() - self._answered
            # Where a run goes on, every site's process is a new one.
            missing = set() if self._is_preparing() else self._recorder.missing()
            for site in sorted(outstanding - missing - self._reported):
                if elapsed >= self._late_after(site, alone=outstanding - missing == {site}):
                    self._report(site)
            return any(elapsed < (self._patience(site) if site in missing else self._limit()) for site in outstanding)

    def close(self) -> None:
        """No more answers are taken: who has not answered is missing."""
        with self._lock:
            silent = self._asked.keys() - self._answered
            if self._is_preparing():
                # Who does not prepare takes no part at all, and does not come back.
                self._reported -= silent
            else:
                for site in sorted(silent - self._recorder.missing()):
                    self._recorder.absences.append(Absence(site=site, since=timestamp(self._since)))
                    if site not in self._reported:
                        self._report(site)
            self._asked = {}

    def _limit(self) -> float:
        return PREPARE_SECONDS if self._is_preparing() else self._round_timeout or math.inf

    def _is_preparing(self) -> bool:
        return "prepare" in self._asked.values()

    def _of_kind(self, kind: RequestKind) -> list[float]:
        """What sites take for a kind of request: those that have answered it now; where none has, ever before."""
        now = [took for site, took in self._took.items() if self._asked[site] == kind]
        return now or [took for (_, of), took in self._longest.items() if of == kind]

    def _patience(self, site: str) -> float:
        """Seconds that a missing site gets."""
        took = self._of_kind(self._asked[site]) or self._took.values() or self._longest.values()
        return min(with_grace(max(took, default=math.inf)), self._limit())

    def _late_after(self, site: str, *, alone: bool) -> float:
        """Seconds after which whoever follows the run is told of a site; ``alone``: all others have answered."""
        kind = self._asked[site]
        took = self._of_kind(kind) or (list(self._took.values()) if alone else [])
        return with_grace(max([*took, self._longest.get((site, kind), 0.0)]) if took else math.inf)

    def _report(self, site: str) -> None:
        self._reported.add(site)
        until = self._since + timedelta(seconds=self._limit()) if self._limit() < math.inf else None
        waits = "no end to the wait: round_timeout is 0" if until is None else f"waited for until {until:%H:%M:%S} UTC"
        reason = f"no answer since it was asked at {self._since:%Y-%m-%d %H:%M:%S} UTC; {waits}"
        self._progress(Missing(site=site, since=timestamp(self._since), reason=reason))

    def _welcome(self, site: str) -> None:
        if site in self._reported | self._recorder.missing():
            self._reported.discard(site)
            self._recorder.end_absence(site, timestamp())
            self._progress(Back(site=site))
