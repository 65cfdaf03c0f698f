"""Follow a submitted job from afar: the run's events as they come, and in words what NVFlare makes of the job."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from consilia.core.errors import ConfigError, ConsiliaError
from consilia.core.events import Absent, Event, Failed, Finished, Notice, Progress, RoundDone, read_event
from consilia.deploy.session import JobSession, NotPermitted, ServerSilent
from consilia.flare.messages import IS_COMPLETE

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 600.0
"""How long the server may be silent, being started again perhaps, before following it ends."""
LOST_SECONDS = 20.0
"""How long a job may be RUNNING without a process at the server; for a moment after its end every job is."""
OUTCOMES_SECONDS = 1000.0
"""How long NVFlare may take to close a job whose run is complete: without ``consilia site install`` at the server, it
waits 900 s for a site that has vanished."""
REASONS_SECONDS = 2.0
"""NVFlare notes that a job could not be started, and a moment later (two writes of a file) which sites would not."""

RUNNING, COMPLETED, NOT_STARTED = "RUNNING", "FINISHED:COMPLETED", "FINISHED:FAILED_TO_RUN"
REFUSED = (
    ", or refused what the job would run (Consilia is not installed there, or its class_allow_list lacks it; at a "
    "site the job's log.txt says)"
)
ENDINGS = {
    COMPLETED: "the job is complete",
    "FINISHED:ABORTED": "the job was aborted by an administrator",
    "FINISHED:EXECUTION_EXCEPTION": f"the job failed: its process at the server or a site ended with an error{REFUSED}",
    "FINISHED:ABNORMAL": f"the job ended irregularly: a site was lost{REFUSED}",
    "FINISHED:CAN_NOT_SCHEDULE": "the job was never started: too few sites were connected or had room for it",
    NOT_STARTED: "the job could not be started",
    "FINISHED:ABANDONED": "the job was lost when the server stopped",
}
"""NVFlare's last states of a job, in words."""

BROKEN = ("FINISHED:EXECUTION_EXCEPTION", "FINISHED:ABNORMAL", "FINISHED:ABANDONED")
"""Those in which a job is that has lost a process."""

DEPLOYED = "job_deploy_detail"
"""Where NVFlare notes, site by site, whether a job was taken."""

CLOSING = (
    "the run is complete; NVFlare has not closed the job: it waits for a site that has vanished (15 s, or as long as "
    "the server's resources.json says), and hands out the result then"
)
UNSEEN = (
    "the job runs, its progress cannot be seen: the server's authorization.json does not give your role app_command "
    "(consilia site install at the server does)"
)


@dataclass(frozen=True)
class Ending:
    """How a job ended.

    Attributes:
        status: NVFlare's, e.g. ``FINISHED:COMPLETED``.
        complete: whether the run came to its end; a site that is lost after that, or a process that fails in ending,
            leaves another status than COMPLETED.
        reason: in words.
        rounds: full rounds seen; the server keeps the state after the last.
        broken: a process was lost after the run had begun, or the server itself, and the run has given no reason of its
            own: to go on with it may succeed.
    """

    status: str
    complete: bool
    reason: str
    rounds: int
    broken: bool = False


def is_over(status: str) -> bool:
    """Whether a job in this state has ended."""
    return status.startswith("FINISHED")


def in_words(meta: Mapping[str, Any]) -> str:
    """How a job ended, by what NVFlare noted of it: its state, and what sites said that it was not deployed to."""
    status = str(meta["status"])
    refusals = [f"{site}: {reason}" for site, reason in sorted(not_deployed(meta).items())]
    return "; ".join([ENDINGS.get(status, f"the job is {status}"), *refusals])


def not_deployed(meta: Mapping[str, Any]) -> dict[str, str]:
    """Sites (or the server) that would not take the job, with the reason; one may forbid jobs that carry code."""
    failures = [str(entry).partition(": ") for entry in meta.get(DEPLOYED) or []]
    return {
        site: reason.removeprefix("NVFLARE_ERROR: ")[:300] for site, _, reason in failures if reason and reason != "OK"
    }


def why_waiting(meta: Mapping[str, Any], connected: Sequence[str]) -> str:
    """What a job that has not started waits for."""
    if meta["status"] != "SUBMITTED":
        return "the server sends the job to the sites"
    needed = int(meta.get("min_clients") or 1)
    if len(connected) < needed:
        return f"waiting for sites: {len(connected)} of at least {needed} are connected ({', '.join(connected) or '-'})"
    history = meta.get("schedule_history") or []
    # An entry begins with its time, which would make every one a new message.
    tried = f", last try: {str(history[-1])[21:]}" if history else ""
    return f"waiting for the server to start the job{tried}"


def to_resume(jobs: Sequence[Mapping[str, Any]], running: Collection[str], job_id: str) -> Mapping[str, Any]:
    """The job to clone so that a job's run goes on: that job, or an earlier one if it never got to run.

    Args:
        jobs: what NVFlare knows of all jobs.
        running: numbers of the jobs that the server really runs.
        job_id: the job that the user wants to resume.

    Raises:
        ConfigError: there is no such job, it has not ended, it is complete, or another job has gone on with it.
    """
    known = {str(job["job_id"]): job for job in jobs}
    if job_id not in known:
        raise ConfigError(f"the server knows no job {job_id}")
    job = known[job_id]
    if not is_over(str(job["status"])) and not _is_lost(job, running):
        raise ConfigError(f"job {job_id} has not ended, it is {job['status']}: consilia follow shows how it gets on")
    if job["status"] == COMPLETED:
        raise ConfigError(f"job {job_id} is complete: there is nothing to resume. Submit it again to run it anew")
    while not _has_run(job) and job.get("cloned_from") in known:
        # It has taken nothing over.
        job = known[str(job["cloned_from"])]
    for later in jobs:
        # One that failed may have ended before it had taken the state over; if it has, the server says so.
        failed = is_over(str(later["status"])) and later["status"] != COMPLETED
        if later.get("cloned_from") == job["job_id"] and not failed:
            raise ConfigError(f"job {job['job_id']} has been resumed already, as {later['job_id']}: resume that one")
    return job


def _is_lost(job: Mapping[str, Any], running: Collection[str]) -> bool:
    return job["status"] == RUNNING and str(job["job_id"]) not in running


def _has_run(job: Mapping[str, Any]) -> bool:
    # NVFlare gives a job an empty one when it is submitted or cloned.
    return bool(job.get("start_time"))


def follow(session: JobSession, job_id: str, progress: Progress, *, poll: float = POLL_SECONDS) -> Ending:
    """Tell a job's events as they come, until it ends.

    Beside the run's own events, ``progress`` gets a :class:`Notice` of what keeps the job from starting or being
    watched, and an :class:`Absent` for a site that would not take it. A server that is started again is found again.

    Raises:
        ServerSilent: the server has not answered for ten minutes; the job may go on.
        ConfigError: there is no such job, or the user may not look at it.
    """
    following = _Following(session, job_id, progress)
    silent_since: float | None = None
    while True:
        try:
            ending = following.look()
            if silent_since is not None:
                progress(Notice(reason="the server answers again"))
            if ending is not None:
                return ending
            silent_since = None
        except ServerSilent as error:
            if silent_since is None:
                silent_since = time.monotonic()
                progress(Notice(reason=f"{error}: asking again for up to {PATIENCE_SECONDS / 60:.0f} minutes"))
            if time.monotonic() - silent_since > PATIENCE_SECONDS:
                raise
            # A server that has been started again knows nothing of the session.
            with suppress(ConsiliaError):
                session.renew()
        # A job's process that is not up yet cannot answer, and NVFlare logs every question that finds none.
        time.sleep(poll if following.begun else 4 * poll)


class _Following:
    """What a follower has seen of a job."""

    def __init__(self, session: JobSession, job_id: str, progress: Progress) -> None:
        self._session, self._job_id, self._progress = session, job_id, progress
        self._next, self._rounds = 0, 0
        self._said: set[str] = set()
        self._last: Event | None = None
        self._missing_since: float | None = None

    @property
    def begun(self) -> bool:
        """Whether the run has told anything yet."""
        return self._next > 0

    def look(self) -> Ending | None:
        """Tell what is new; the ending once there is one."""
        meta = self._session.meta(self._job_id)
        status = str(meta["status"])
        if status == NOT_STARTED and DEPLOYED not in meta:
            time.sleep(REASONS_SECONDS)
            meta = self._session.meta(self._job_id)
        if is_over(status):
            return self._ending(meta)
        if status != RUNNING:
            self._once(Notice(reason=why_waiting(meta, self._session.connected())))
            return None
        for site, reason in not_deployed(meta).items():
            self._once(Absent(site=site, reason=reason))
        if isinstance(self._last, Failed | Finished):
            # Its process ends, and NVFlare logs every question that it does not answer any more as an error.
            return self._lost(meta)
        try:
            news, self._next = self._session.events(self._job_id, self._next)
        except NotPermitted:
            self._once(Notice(reason=UNSEEN))
            return None
        if not self.begun:
            self._once(Notice(reason="the server and the sites start the job's processes"))
        for event in map(read_event, news):
            # Of a later version of the server's than this one's there may be events that it does not know.
            if event is None:
                continue
            self._rounds = event.round if isinstance(event, RoundDone) else self._rounds
            self._last = event
            self._progress(event)
        return None if news else self._lost(meta)

    def _lost(self, meta: Mapping[str, Any]) -> Ending | None:
        """The ending of a job that no process works at, and that NVFlare goes on calling RUNNING."""
        if not _is_lost(meta, self._session.running()):
            self._missing_since = None
            return None
        self._missing_since = self._missing_since or time.monotonic()
        missing = time.monotonic() - self._missing_since
        if missing < LOST_SECONDS:
            return None
        # Whoever began to follow after the run's last word finds it in the log.
        if isinstance(self._last, Finished) or COMPLETE_LINE.search(self._log()):
            self._once(Notice(reason=CLOSING))
            return Ending(RUNNING, True, CLOSING, self._rounds) if missing > OUTCOMES_SECONDS else None
        reason = "the server has lost the job: it was restarted while the job ran"
        return Ending(RUNNING, False, reason, self._rounds, broken=True)

    def _once(self, event: Notice | Absent) -> None:
        if event.reason not in self._said:
            self._said.add(event.reason)
            self._progress(event)

    def _ending(self, meta: Mapping[str, Any]) -> Ending:
        status, reason = str(meta["status"]), in_words(meta)
        complete = status == COMPLETED or isinstance(self._last, Finished)
        own = isinstance(self._last, Failed)
        if isinstance(self._last, Failed):
            reason = self._last.reason
        elif not complete:
            log = self._log()
            # The job may have ended between two looks, and its last events with it.
            complete, logged, own = bool(COMPLETE_LINE.search(log)), last_error(log), PANIC in log
            reason += f". The server's log says: {logged}" if logged else ""
        if complete and status != COMPLETED:
            reason = f"the run is complete; what NVFlare says of the job came after its end: {reason}"
        broken = status in BROKEN and self.begun and not complete and not own
        return Ending(status, complete, reason, self._rounds, broken)

    def _log(self) -> str:
        """The log of the job's server process, where we may read it."""
        try:
            return self._session.server_log(self._job_id)
        except ConsiliaError:
            return ""


def last_error(log: str) -> str | None:
    """The message of the last error in the log of a job's server process; of a panic, where there was one."""
    # Our own questions, asked before the run could answer them, are logged as errors too.
    errors = [line.partition(ERROR)[2] for line in log.splitlines() if ERROR in line and OWN not in line]
    panics = [text.partition(PANIC)[2] for text in errors if PANIC in text]
    # What comes first in brackets is the context of the job.
    messages = panics or [text.rpartition("] - ")[2] for text in errors]
    return messages[-1][:500] if messages else None


COMPLETE_LINE = re.compile(
    rf"^[\d:, -]+ - ConsiliaController - INFO - \[[^]]*\] - run \S+ {IS_COMPLETE} ", re.MULTILINE
)
"""As the server's process writes it; what a site sends is quoted in other lines of its log."""

ERROR, PANIC, OWN = " - ERROR - ", "FATAL_SYSTEM_ERROR received: ", "AppCommandProcessor"
"""How NVFlare's log marks an error, a panic of a controller, and a refused app command."""
