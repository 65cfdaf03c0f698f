"""One run of a study, in this process: a method with an engine, or a baseline; and what becomes of it."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from consilia.core.errors import AggregationError, ConfigError, DataError, RunFailed
from consilia.core.events import Begun, Event, Failed, Finished, Progress, RoundDone, TrainedAlone
from consilia.core.schema import nearest
from consilia.federation.config import RunConfig
from consilia.federation.inprocess import run_inprocess
from consilia.federation.outputs import REPORT
from consilia.federation.run_folder import PROGRESS, RESULT, recorded
from consilia.federation.server_settings import own_server
from consilia.methods.shown import panels_of
from consilia.record.files import save_record
from consilia.record.schema import Record
from consilia.report.html import write_report
from consilia.study.adaptation import adapt
from consilia.study.baselines import run_baseline
from consilia.study.folder import nothing_left
from consilia.study.new_site import NewSite
from consilia.study.outcome import Cost, Failure, read_cost, write_outcome

EngineName = Literal["sim", "inprocess"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
"""NVFlare's simulator, a process per site; or one plain loop."""


def require_engine(name: str) -> EngineName:
    """The engine of that name; raises :class:`ConfigError` where there is none."""
    for engine in ENGINES:
        if engine == name:
            return engine
    raise ConfigError(f"no engine {name!r}; {nearest(name, ENGINES)}")


@dataclass(frozen=True)
class Work:
    """A run that is to be made: a method's with an engine, or a baseline's, which needs none.

    ``pages``: whether it writes its own reports; ``workers``: processes for the sites, of the in-process engine.
    ``unseen`` and ``new_site``: the run is there, and what is to be made are the personal models of the site that it
    left out, in a folder below the run's.
    """

    config: RunConfig
    sites: Mapping[str, Path]
    folder: Path
    engine: EngineName
    baseline: str | None = None
    pages: bool = True
    workers: int = 1
    unseen: str = ""
    new_site: NewSite | None = None


def run_one(work: Work, progress: Progress) -> Record:
    """Make a run; it goes on where its folder holds a checkpoint, and a refused one leaves nothing there.

    Raises:
        ConsiliaError: it was refused, or failed.
    """
    progress(Begun(rounds=work.config.rounds))
    # What an earlier process has spent on it counts, too.
    cost = _Clock(read_cost(work.folder))
    try:
        with nothing_left(work.folder):
            record = _federated(work, progress) if work.baseline is None else _baseline(work, work.baseline, progress)
    except (ConfigError, DataError):
        raise
    except BaseException:
        write_outcome(work.folder, cost.so_far())
        raise
    write_outcome(work.folder, cost.so_far())
    return record


def try_one(work: Work, progress: Progress) -> Failure | None:
    """The same, where a run that has no result is one row of many: why. Of one that failed it is written down.

    One that cannot be made has cost next to nothing, and may be made when its data are there.

    Raises:
        ConsiliaError: the study cannot go on as it is: a damaged checkpoint, a folder of another run.
    """
    try:
        run_one(work, progress) if work.new_site is None else _adapted(work, work.new_site, progress)
    except (ConfigError, DataError) as error:
        failure = Failure(run_id=work.config.run_id, status="cannot", reason=str(error))
    except (RunFailed, AggregationError) as error:
        failure = Failure(run_id=work.config.run_id, status="failed", reason=str(error))
        write_outcome(work.folder, failure)
    else:
        return None
    progress(Failed(reason=failure.reason))
    return failure


def _adapted(work: Work, new_site: NewSite, progress: Progress) -> None:
    progress(Begun(rounds=0))
    cost = _Clock(read_cost(work.folder))
    adapt(work.config, work.sites, work.folder, work.baseline, work.unseen, new_site)
    write_outcome(work.folder, spent := cost.so_far())
    progress(Finished(rounds=0, seconds=spent.seconds))


class _Clock:
    """What has been used since it was made, by this process and those that it has started and that have ended.

    ``before``: what had been used until then.
    """

    def __init__(self, before: Cost) -> None:
        self._began = time.perf_counter() - before.seconds
        self._used = _processor_seconds() - before.core_seconds

    def so_far(self) -> Cost:
        """Until now."""
        return Cost(seconds=time.perf_counter() - self._began, core_seconds=_processor_seconds() - self._used)


def _processor_seconds() -> float:
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def _federated(work: Work, progress: Progress) -> Record:
    server = own_server(work.config, work.sites)
    if work.engine == "inprocess":
        return run_inprocess(
            work.config,
            work.sites,
            work.folder,
            server=server,
            progress=progress,
            pages=work.pages,
            workers=work.workers,
        )
    # NVFlare takes a second to import.
    from consilia.flare.simulator import run_simulator

    return run_simulator(work.config, work.sites, work.folder, server=server, progress=progress)


def _baseline(work: Work, name: str, progress: Progress) -> Record:
    """A baseline leaves the same files as a run."""
    folder, rounds = work.folder, 0

    def count(event: Event) -> None:
        nonlocal rounds
        rounds += isinstance(event, RoundDone)
        if isinstance(event, TrainedAlone):
            rounds = work.config.rounds
        notify(event)

    (folder / PROGRESS).unlink(missing_ok=True)
    notify = recorded(folder, progress)
    record = run_baseline(name, work.config, work.sites, folder, progress=count, pages=work.pages)
    save_record(record, folder / RESULT)
    if work.pages:
        write_report([record], folder / REPORT, panels_of([record]))
    notify(Finished(rounds=rounds, seconds=record.run.seconds))
    return record
