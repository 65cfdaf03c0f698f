"""The commands that hand a job to a federation: submit, resume, follow."""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consilia.cli.console import console
from consilia.cli.progress import job_view
from consilia.cli.show import show_records
from consilia.core.errors import ConfigError, ConsiliaError, RunFailed
from consilia.core.plain import plain
from consilia.core.reading import read_json
from consilia.deploy.following import Ending, is_over, to_resume
from consilia.deploy.following import follow as follow_job
from consilia.deploy.session import JobSession, ServerSilent, open_session
from consilia.federation.run_folder import RESULT
from consilia.record.files import load_record

META = "meta.json"
SERVER_CONFIG = "config/config_fed_server.json"
RUN_FOLDER = Path("workspace") / "consilia"
"""Where a downloaded job holds what the run has left."""

JOB_NAME = re.compile(r"[A-Za-z0-9._-]+")
"""What NVFlare accepts as a job folder's name."""


PAUSES = (5.0, 30.0, 120.0)
"""Seconds before a job that was broken off is resumed, the first, second and any further time."""


@dataclass(frozen=True)
class Wanted:
    """What a user wants beyond handing a job in.

    Attributes:
        follow: to see it to its end.
        download: to have its result in this folder, which needs the same.
        retries: how often a job that is broken off while it is followed is resumed.
    """

    follow: bool
    download: Path | None
    retries: int

    def __post_init__(self) -> None:
        if self.download is not None and self.download.exists() and not self.download.is_dir():
            raise ConfigError(f"--download {self.download} is a file: expected a folder, which may be new")


def submit_command(job: Path, kit: Path, wanted: Wanted) -> None:
    """``consilia submit``: hand in a job folder."""
    folder, name = check_job(job)
    with open_session(kit) as session:
        job_id = session.submit(folder)
        console.print(f"{name}: submitted as {job_id}", highlight=False)
        _go_on(session, job_id, name, wanted)


def resume_command(job_id: str, kit: Path, wanted: Wanted) -> None:
    """``consilia resume``: go on with a job that ended too early, as a new job, after its last full round."""
    with open_session(kit) as session:
        name, clone = _resume(session, job_id)
        _go_on(session, clone, name, wanted)


def follow_command(job_id: str, kit: Path, wanted: Wanted) -> None:
    """``consilia follow``: a job's progress from its first event on, to its end."""
    with open_session(kit) as session:
        _go_on(session, job_id, str(session.meta(job_id).get("name", job_id)), wanted)


def _resume(session: JobSession, job_id: str) -> tuple[str, str]:
    """Submit a job, or the one that it goes on with, as a clone; the job's name, and the clone's number."""
    meta = to_resume(session.jobs(), session.running(), job_id)
    name, origin = str(meta.get("name", job_id)), str(meta["job_id"])
    if meta.get("scope"):
        console.print(
            f"Job {origin} had the privacy scope {meta['scope']}; NVFlare leaves that out of a resumed job, whose "
            "sites apply their default scope.",
            style="yellow",
        )
    clone = session.clone(origin)
    console.print(f"{name}: goes on as {clone}", highlight=False)
    return name, clone


def check_job(job: Path) -> tuple[Path, str]:
    """The absolute folder and the name of an exported job.

    Raises:
        ConfigError: it is no job folder, or one that NVFlare would not take.
    """
    folder = job.absolute().resolve()
    if not (folder / META).is_file():
        below = sorted(path.parent.name for path in folder.glob(f"*/{META}"))
        hint = f"; it holds the jobs {', '.join(below)}: name one of them" if below else ""
        raise ConfigError(f"{job} is no job folder, it has no {META}: consilia export writes one{hint}")
    try:
        meta: dict[str, Any] = read_json(folder / META, links=False)
        name, apps = str(meta["name"]), list(meta["deploy_map"])
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{job / META}: expected a job's name and deploy_map ({type(error).__name__}: {error})"
        ) from None
    for app in apps:
        if not (folder / app / "config").is_dir():
            raise ConfigError(f"{job}: {META} names the app {app!r}, whose folder {job / app / 'config'} is missing")
    if not any((folder / app / SERVER_CONFIG).is_file() for app in apps):
        raise ConfigError(f"{job}: no app has {SERVER_CONFIG}, so the server would have nothing to do")
    if not JOB_NAME.fullmatch(folder.name):
        raise ConfigError(f"{folder.name!r} cannot be a job's name: letters, digits, dots, '_' and '-' only")
    return folder, name


def _go_on(session: JobSession, job_id: str, name: str, wanted: Wanted) -> None:
    """What all three commands do once the job is there."""
    download = wanted.download
    if not wanted.follow and download is None:
        console.print(_again(job_id, session), highlight=False, soft_wrap=True)
        return
    job_id, ending = _see_through(session, job_id, name, wanted.retries)
    found = None if download is None else _fetch(session, job_id, download, ending)
    if not ending.complete or (download is not None and found is None):
        raise RunFailed(_why(ending, job_id, session))
    console.print(f"{name}: {plain(ending.reason)}", highlight=False)
    if found is not None:
        show_records([load_record(found)], found.parent)
        console.print(f"Record: {found}", highlight=False, soft_wrap=True)
    else:
        fetch = f"{_command('follow', job_id, session)} --download DIR"
        console.print(f"Fetch the result with: {fetch}", highlight=False, soft_wrap=True)


def _see_through(session: JobSession, job_id: str, name: str, retries: int) -> tuple[str, Ending]:
    """Follow a job to its end and, where it is broken off, the jobs that go on with it; the last one's number."""
    ending = _watch(session, job_id, name)
    for number in range(1, retries + 1):
        if not ending.broken:
            break
        pause = PAUSES[min(number, len(PAUSES)) - 1]
        console.print(
            f"{name}: job {job_id} was broken off: {plain(ending.reason)}\n"
            f"{name}: it is resumed in {pause:.0f} s ({number} of {retries} times)",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
        try:
            time.sleep(pause)
        except KeyboardInterrupt:
            console.print(_hint(job_id, session), highlight=False, soft_wrap=True)
            raise
        _, job_id = _resume(session, job_id)
        ending = _watch(session, job_id, name)
    return job_id, ending


def _watch(session: JobSession, job_id: str, name: str) -> Ending:
    """Follow one job to its end; Ctrl-C leaves it running and says so."""
    try:
        with job_view(name) as view:
            return follow_job(session, job_id, view)
    except KeyboardInterrupt:
        abort = f"nvflare job abort {job_id} --startup-kit {shlex.quote(str(session.kit.folder))}"
        where = f"The job goes on. {_again(job_id, session)}\nAbort it with: {abort}"
        console.print(where, highlight=False, soft_wrap=True)
        raise
    except ServerSilent as error:
        raise RunFailed(f"{error}\nThe job may go on by itself. {_again(job_id, session)}") from error


def _fetch(session: JobSession, job_id: str, download: Path, ending: Ending) -> Path | None:
    """Download what the job has left; the path of its record, or None where there is none."""
    try:
        place = session.download(job_id, download)
    except ConsiliaError as error:
        if ending.complete:
            raise
        # The run's own reason matters more than that there is nothing to fetch.
        console.print(plain(error), style="yellow")
        return None
    console.print(f"Downloaded: {place}", highlight=False, soft_wrap=True)
    record = place / RUN_FOLDER / RESULT
    return record if record.is_file() else None


def _why(ending: Ending, job_id: str, session: JobSession) -> str:
    reason = plain(ending.reason) if not ending.complete else f"the job is {ending.status} but left no {RESULT}"
    resumable = ending.rounds or not is_over(ending.status)
    hint = f"\n{_hint(job_id, session)}" if resumable else ""
    return f"job {job_id} ended without a result: {reason}{hint}"


def _hint(job_id: str, session: JobSession) -> str:
    return f"Go on after its last full round with: {_command('resume', job_id, session)}"


def _again(job_id: str, session: JobSession) -> str:
    return f"Follow it with: {_command('follow', job_id, session)}"


def _command(command: str, job_id: str, session: JobSession) -> str:
    return f"consilia {command} {job_id} --kit {shlex.quote(str(session.kit.folder))}"
