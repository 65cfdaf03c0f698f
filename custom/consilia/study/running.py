"""Run one method, or a whole study, on this machine: typed functions below the command line and the Python interface.

Nothing here prints. Callers get events (:mod:`consilia.core.events`) and :class:`FinishedRun` objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from consilia.core.determinism import cores
from consilia.core.errors import ConfigError, ConsiliaError, RunFailed
from consilia.core.events import Event, Found, Progress, no_progress
from consilia.evaluation.frames import run_frame
from consilia.evaluation.summary import summarise
from consilia.federation.outputs import REPORT
from consilia.methods.shown import panels_of
from consilia.record.schema import Record
from consilia.record.study_result import Leak, StudyResult
from consilia.report.html import write_report
from consilia.study.analysis import analyse
from consilia.study.execute import StudyProgress, execute
from consilia.study.federations import Federation, federations_of
from consilia.study.folder import SITES, alone, finished, nothing_left, overwritten
from consilia.study.grid import Grid
from consilia.study.histories import histories_of
from consilia.study.leaks import leaks_of
from consilia.study.new_site_scores import new_site_scores, predictions_at_new_sites
from consilia.study.one_run import EngineName, Work, require_engine, run_one
from consilia.study.outcome import core_hours
from consilia.study.outputs import write_outputs
from consilia.study.plan import Planned, adaptations_of, plan_of
from consilia.study.results import predictions_of, rounds_of, runs_of
from consilia.study.study import Study, require_label, require_method, study_config, study_sites
from consilia.study.subgroups import attributes_of, with_subgroups
from consilia.study.tuning import Choice, Execute, settings_of, tune


@dataclass(frozen=True)
class FinishedRun:
    """A run that has come to its end.

    Attributes:
        name: of the run, in its study.
        record: what it gave.
        folder: where record, report and models are.
        found: whether it was there already and has not been run again.
        federation: where it belongs in its study; None of a run that is of no study.
    """

    name: str
    record: Record
    folder: Path
    found: bool = False
    federation: Federation | None = None

    @property
    def left_out(self) -> str | None:
        """The site that was left out of it, where its study leaves out several in turn."""
        return None if self.federation is None else self.federation.left_out

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
    require_method(study, method)
    if workers != 1 and runner != "inprocess":
        raise ConfigError(f"workers is {workers}: the simulator has a process per site; it is for engine inprocess")
    with nothing_left(folder):
        with overwritten(folder) if overwrite else nullcontext():
            sites = study_sites(study, folder / SITES)
            config = study_config(study, method, seed, sites, overrides)
            known = finished(folder, config, sites)
        if known is not None:
            progress(Found())
            return FinishedRun(folder.name, known, folder, True)
        record = run_one(Work(config, sites, folder, runner, workers=workers), progress)
        return FinishedRun(folder.name, record, folder)


@dataclass(frozen=True)
class StudyRuns:
    """What came of a study.

    Attributes:
        runs: that have a result, by data set, option, left-out site, fold, label and seed.
        without: those that have none, and why.
        result: means, intervals and verdicts; None where no run keeps predictions.
    """

    runs: tuple[FinishedRun, ...]
    without: tuple[Planned, ...]
    result: StudyResult | None


def run_study(
    study: Study,
    folder: Path,
    *,
    engine: str = "inprocess",
    labels: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    jobs: int | None = None,
    command: Sequence[str] = ("consilia", "compare"),
    progress: StudyProgress = no_study_progress,
) -> StudyRuns:
    """Run methods and baselines that have no record yet; write the comparison reports.

    Where the study leaves out several sites in turn, each of them has a folder ``without-SITE`` with its runs and its
    report.

    Args:
        study: what to run.
        folder: of the study: runs, sites and reports, with a level for every axis along which it goes.
        engine: what runs a configuration.
        labels: of the study's methods, methods' names and baselines; all of the study's by default.
        overrides: ``key=value`` on every run's configuration.
        jobs: runs at a time; default: as many as the machine has cores, one at a time in NVFlare's simulator, which
            has processes of its own.
        command: what runs the study, for the rows of runs that have no result.
        progress: called with the name of a run and each of its events; with "" and where the study stands.

    Raises:
        ConsiliaError: what is asked for does not fit, and nothing is left in the folder; or no run has a result.
    """
    carry_out = _executor(study, folder, require_engine(engine), jobs, progress)
    for label in labels or ():
        require_label(study, label)
    if study.new_site is not None and study.leave_out is None:
        raise ConfigError("new_site is about a site that is left out: give leave_out in the study, or --leave-out")
    with nothing_left(folder), alone(folder):
        federations = federations_of(study, folder)
        # All of them before the first run: a mistake in the last method must not show hours later.
        plan = plan_of(federations, labels, overrides, look=study.tune is None)
        leaks = leaks_of(plan)
        sites = {one.federation.folder: (one.federation.data_name, one.sites) for one in plan}
        attributes = attributes_of(sites.values(), study.subgroups)
        if study.tune is not None:
            settings = settings_of(tune(study, federations, labels, folder, carry_out, overrides), study.tune)
            plan = plan_of(federations, labels, overrides, settings)
        planned = carry_out(plan)
        _require_one(planned)
        joined = [] if study.new_site is None else carry_out(adaptations_of(planned, study.new_site))
        result = _write_reports(study, folder, planned, command, leaks, attributes, joined)
    found = [before.record is not None for before in plan]
    runs = tuple(
        FinishedRun(one.name, one.record, one.folder, there, one.federation)
        for one, there in zip(planned, found, strict=True)
        if one.record is not None
    )
    return StudyRuns(runs, tuple(one for one in planned if one.record is None), result)


def tune_study(
    study: Study,
    folder: Path,
    *,
    engine: str = "inprocess",
    labels: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    jobs: int | None = None,
    progress: StudyProgress = no_study_progress,
) -> list[Choice]:
    """Choose the settings of a study's methods and trained baselines; see :mod:`consilia.study.tuning`.

    Arguments and errors as of :func:`run_study`; a study without the key ``tune`` takes the default grid.
    """
    carry_out = _executor(study, folder, require_engine(engine), jobs, progress)
    for label in labels or ():
        require_label(study, label)
    study = study if study.tune is not None else study.changed(tune=Grid())
    with nothing_left(folder), alone(folder):
        federations = federations_of(study, folder)
        leaks_of(plan_of(federations, labels, overrides, look=False))
        return tune(study, federations, labels, folder, carry_out, overrides)


def _executor(study: Study, folder: Path, engine: EngineName, jobs: int | None, progress: StudyProgress) -> Execute:
    """What carries out a part of the study's runs: all that its folder holds have one budget."""

    def carry_out(plan: Sequence[Planned]) -> list[Planned]:
        spent = core_hours(folder, without=[one.folder for one in plan])
        return execute(
            plan, engine=engine, jobs=_jobs(jobs, engine, plan), budget=study.budget, spent=spent, progress=progress
        )

    return carry_out


def _jobs(wanted: int | None, engine: str, plan: Sequence[Planned]) -> int:
    left = sum(planned.status is None for planned in plan)
    if wanted is None:
        wanted = 1 if engine == "sim" else cores()
    return max(1, min(wanted, left))


def _require_one(planned: Sequence[Planned]) -> None:
    """A study of which no run has a result is none."""
    if any(one.status in ("done", "not run") for one in planned) or not planned:
        return
    kind: type[ConsiliaError] = RunFailed if any(one.status == "failed" for one in planned) else ConfigError
    reasons = dict.fromkeys(one.reason for one in planned)
    raise kind("\n".join(reasons))


def _write_reports(
    study: Study,
    folder: Path,
    planned: Sequence[Planned],
    command: Sequence[str],
    leaks: tuple[Leak, ...],
    attributes: pd.DataFrame,
    joined: Sequence[Planned],
) -> StudyResult | None:
    """A page for each federation, and the study's result."""
    federations: dict[Path, list[Record]] = {}
    for one in planned:
        if one.record is not None:
            federations.setdefault(one.federation.folder, []).append(one.record)
    for place, records in federations.items():
        write_report(records, place / REPORT, panels_of(records))
    predictions = with_subgroups(predictions_of(planned), attributes, study.subgroups or {})
    if predictions.empty and any(one.record is not None for one in planned):
        return None
    tables = predictions, runs_of(planned, command), rounds_of(planned)
    result = analyse(*tables, study.claims, title=folder.name, histories=histories_of(planned))
    new_site = tuple(new_site_scores(predictions_at_new_sites(joined)))
    result = result.model_copy(update={"leaks": leaks, "new_site": new_site})
    if study.tune is not None:
        division = "fold" if study.folds is not None else "partition" if study.partitions is not None else ""
        result = result.model_copy(update={"notes": (*result.notes, study.tune.words(study.seeds, division))})
    write_outputs(result, folder)
    return result
