"""Run one method, or a whole study, on this machine: typed functions below the command line and the Python interface.

Nothing here prints. Callers get events (:mod:`consilia.core.events`) and :class:`FinishedRun` objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import pandas as pd

from consilia.core.errors import ConfigError
from consilia.core.events import Begun, Event, Finished, Found, Progress, RoundDone, TrainedAlone, no_progress
from consilia.core.files import write_csv
from consilia.core.schema import nearest
from consilia.data.site import load_site_config
from consilia.evaluation.frames import run_frame
from consilia.evaluation.left_out import left_out_values
from consilia.evaluation.summary import summarise
from consilia.federation.config import RunConfig
from consilia.federation.inprocess import run_inprocess
from consilia.federation.outputs import REPORT
from consilia.federation.run_folder import PROGRESS, RESULT, recorded
from consilia.federation.server_settings import own_server
from consilia.methods.shown import panels_of
from consilia.record.files import save_record
from consilia.record.schema import Record
from consilia.report.html import write_report
from consilia.simulation.federation import load_federation
from consilia.study.baselines import BASELINES, require_baseline, run_baseline
from consilia.study.folder import SITES, finished, nothing_left, overwritten
from consilia.study.study import EACH, Study, baselines_of, require_label, require_method, study_config, study_sites

EngineName = Literal["sim", "inprocess"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
"""NVFlare's simulator, a process per site; or one plain loop."""

LEFT_OUT = "left-out.csv"
"""In the folder of a study that leaves out several sites in turn: a row per method and site, and their mean."""

StudyProgress = Callable[[str, Event], None]
"""Called with every event of a study's runs, after the name of the run."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that has come to its end.

    Attributes:
        name: of the run, in its study.
        record: what it gave.
        folder: where record, report and models are.
        found: whether it was there already and has not been run again.
        left_out: the site that was left out of it, where a study leaves out several in turn.
    """

    name: str
    record: Record
    folder: Path
    found: bool = False
    left_out: str | None = None

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """The metrics of the last version by name (docs/metrics.md): fractions; None where they are not defined."""
        return summarise(self.record).numbers("last")

    @property
    def models(self) -> dict[str, Path]:
        """The files of the global models that the run has left, by version."""
        files = {name: self.folder / f"global-{name}.safetensors" for name in self.record.final}
        return {name: file for name, file in files.items() if file.is_file()}

    def to_frame(self) -> pd.DataFrame:
        """A row per chosen version, model, site and split: :func:`consilia.evaluation.frames.run_frame`."""
        return run_frame(self.record)


@dataclass(frozen=True)
class _Planned:
    """A run that is to be made, its configuration valid and its folder looked at."""

    name: str
    label: str
    config: RunConfig
    sites: Mapping[str, Path]
    folder: Path
    known: Record | None
    left_out: str | None = None
    pages: bool = True
    workers: int = 1


def no_study_progress(name: str, event: Event) -> None:
    """For callers that do not need the events."""


def run_method(
    study: Study,
    method: str,
    folder: Path,
    *,
    engine: str = "inprocess",
    seed: int = 0,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    workers: int = 1,
    progress: Progress = no_progress,
) -> FinishedRun:
    """Train one federation with one method; go on where the folder holds a checkpoint, and run nothing twice.

    Args:
        study: data and settings.
        method: a label of the study's methods, or a method's name.
        folder: of the run.
        engine: what runs it.
        seed: decides initial weights, batches and sampling.
        overrides: ``key=value`` on the configuration.
        overwrite: remove what an earlier run left in the folder.
        workers: processes for the sites, of the in-process engine.
        progress: called with every event.

    Raises:
        ConsiliaError: what is asked for does not fit, and nothing is left in the folder; or the run failed.
    """
    runner = require_engine(engine)
    if workers != 1 and runner != "inprocess":
        raise ConfigError(f"workers is {workers}: the simulator has a process per site; it is for engine inprocess")
    require_method(study, method)
    with nothing_left(folder):
        with overwritten(folder) if overwrite else nullcontext():
            sites = study_sites(study, folder / SITES)
            config = study_config(study, method, seed, sites, overrides)
            known = finished(folder, config, sites)
        planned = _Planned(folder.name, method, config, sites, folder, known, workers=workers)
        return _run(planned, runner, lambda _, event: progress(event))


def run_study(
    study: Study,
    folder: Path,
    *,
    engine: str = "inprocess",
    labels: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    progress: StudyProgress = no_study_progress,
) -> list[FinishedRun]:
    """Run methods and baselines for every seed that has no record yet; write the comparison report.

    Where the study leaves out several sites in turn, each of them has a folder ``without-SITE`` with its runs and its
    report, and :data:`LEFT_OUT` holds the metrics of them all.

    Args:
        study: what to run.
        folder: one sub-folder per run, the sites, and report.html.
        engine: what runs a configuration.
        labels: of the study's methods, methods' names and baselines; all of the study's by default.
        overrides: ``key=value`` on every run's configuration.
        progress: called with the name of a run and each of its events.

    Returns:
        In the order of left-out sites, labels and seeds.

    Raises:
        ConsiliaError: what is asked for does not fit, and nothing is left in the folder; or a run failed.
    """
    runner = require_engine(engine)
    for label in labels or ():
        require_label(study, label)
    with nothing_left(folder):
        # All of them before the first run: a mistake in the last method must not show hours later.
        if study.in_turn:
            places = {site: folder / f"without-{site}" for site in left_out_in_turn(study)}
            plans = {
                place: _plan(study.changed(leave_out=site), place, labels, overrides, site)
                for site, place in places.items()
            }
        else:
            plans = {folder: _plan(study, folder, labels, overrides)}
    runs: list[FinishedRun] = []
    for place, plan in plans.items():
        done = [_run(planned, runner, progress) for planned in plan]
        records = [run.record for run in done]
        write_report(records, place / REPORT, panels_of(records))
        runs += done
    if study.in_turn:
        left_out = [(run.left_out or "", run.record) for run in runs]
        write_csv(folder / LEFT_OUT, *left_out_values(left_out))
    return runs


def left_out_in_turn(study: Study) -> list[str]:
    """The sites that a study leaves out one after another; ``all``: every site that trains something."""
    if study.leave_out != EACH:
        return [study.leave_out] if isinstance(study.leave_out, str) else list(study.leave_out or ())
    with TemporaryDirectory() as scratch:
        files = load_federation(study.data, Path(scratch))
        configs = {name: load_site_config(path) for name, path in files.items()}
    return [name for name, own in configs.items() if not all(spec.test_only for spec in own.datasets.values())]


def require_engine(name: str) -> EngineName:
    """The engine of that name; raises :class:`ConfigError` where there is none."""
    for engine in ENGINES:
        if engine == name:
            return engine
    raise ConfigError(f"no engine {name!r}; {nearest(name, ENGINES)}")


def _plan(
    study: Study,
    folder: Path,
    labels: Sequence[str] | None,
    overrides: Sequence[str],
    left_out: str | None = None,
) -> list[_Planned]:
    sites = study_sites(study, folder / SITES)
    plan = []
    for label in dict.fromkeys(labels or [*study.methods, *baselines_of(study, sites)]):
        for seed in study.seeds:
            config = study_config(study, label, seed, sites, overrides)
            if label in BASELINES:
                require_baseline(label, config)
            name = f"{label}-seed{seed}"
            place = folder / name
            known = finished(place, config, sites, baseline=label in BASELINES)
            name += f" without {left_out}" if left_out else ""
            # The study's report is what a person looks at; a run's own is made of its record when it is wanted.
            plan.append(_Planned(name, label, config, sites, place, known, left_out, pages=False))
    return plan


def _run(planned: _Planned, engine: EngineName, progress: StudyProgress) -> FinishedRun:
    notify = partial(progress, planned.name)
    if planned.known is not None:
        notify(Found())
        return FinishedRun(planned.name, planned.known, planned.folder, True, planned.left_out)
    notify(Begun(rounds=planned.config.rounds))
    with nothing_left(planned.folder):
        start = _baseline if planned.label in BASELINES else _federated
        record = start(planned, engine, notify)
    return FinishedRun(planned.name, record, planned.folder, False, planned.left_out)


def _federated(planned: _Planned, engine: EngineName, progress: Progress) -> Record:
    server = own_server(planned.config, planned.sites)
    if engine == "inprocess":
        return run_inprocess(
            planned.config,
            planned.sites,
            planned.folder,
            server=server,
            progress=progress,
            pages=planned.pages,
            workers=planned.workers,
        )
    # NVFlare takes a second to import.
    from consilia.flare.simulator import run_simulator

    return run_simulator(planned.config, planned.sites, planned.folder, server=server, progress=progress)


def _baseline(planned: _Planned, engine: EngineName, progress: Progress) -> Record:
    """A baseline needs no engine; it leaves the same files as a run."""
    folder, rounds = planned.folder, 0

    def count(event: Event) -> None:
        nonlocal rounds
        rounds += isinstance(event, RoundDone)
        if isinstance(event, TrainedAlone):
            rounds = planned.config.rounds
        notify(event)

    (folder / PROGRESS).unlink(missing_ok=True)
    notify = recorded(folder, progress)
    record = run_baseline(planned.label, planned.config, planned.sites, folder, progress=count)
    save_record(record, folder / RESULT)
    write_report([record], folder / REPORT, panels_of([record]))
    notify(Finished(rounds=rounds, seconds=record.run.seconds))
    return record
