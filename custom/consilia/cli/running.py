"""The commands that run, compare, report and export: they read options, and print what the functions below give."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from consilia import api
from consilia.api import overrides, planned, run_folder, use_plugin
from consilia.cli.console import console, print_table
from consilia.cli.progress import RunView, StudyView
from consilia.cli.show import chosen_settings, left_out_comparison, show_missing, show_records
from consilia.cli.study_result import show_study_result
from consilia.core.errors import ConfigError
from consilia.core.files import write_csv
from consilia.core.schema import nearest
from consilia.evaluation.left_out import left_out_values
from consilia.evaluation.rounds import test_only_sites
from consilia.federation.run_folder import RESULT
from consilia.methods.registry import method_class, method_names
from consilia.methods.shown import panels_of
from consilia.record.files import load_record
from consilia.record.schema import Record
from consilia.report.html import write_report
from consilia.study.running import tune_study
from consilia.study.study import advice, require_method, stands_alone, study_config, study_of, study_sites
from consilia.study.tuning import CHOICES, TUNING


def run_command(
    method: str,
    data: str | None,
    study_source: str | None,
    engine: str,
    rounds: int | None,
    seed: int,
    settings: Sequence[str],
    out: Path | None,
    overwrite: bool,
    workers: int,
) -> None:
    """``consilia run``."""
    folder = run_folder(method, seed, out)
    with _stopped_politely(folder), RunView() as view:
        run = api.run(
            method,
            data=data,
            study=study_source,
            engine=engine,
            rounds=rounds,
            seed=seed,
            settings=settings,
            out=folder,
            overwrite=overwrite,
            workers=workers,
            progress=partial(view, f"{method} seed {seed}"),
        )
    if run.found:
        console.print(f"{folder} holds this run's record already; --overwrite runs it again.", soft_wrap=True)
    show_records([run.record], folder)


def compare_command(
    study_source: str,
    engine: str,
    only: Sequence[str],
    seeds: str | None,
    rounds: int | None,
    leave_out: Sequence[str],
    train_cases: float | None,
    settings: Sequence[str],
    out: Path | None,
    jobs: int | None,
) -> None:
    """``consilia compare``."""
    left_out = [site.strip() for given in leave_out for site in given.split(",")]
    numbers = None if seeds is None else _seeds(seeds)
    _, folder = planned(study_source, seeds=numbers, leave_out=left_out, train_cases=train_cases, out=out)
    with _stopped_politely(folder), StudyView() as view:
        found = api.compare(
            study_source,
            only=only,
            engine=engine,
            seeds=numbers,
            rounds=rounds,
            leave_out=left_out,
            train_cases=train_cases,
            settings=settings,
            out=folder,
            jobs=jobs,
            progress=view,
        )
    if found.result is not None and any(run.federation and run.federation.axes for run in found.runs):
        show_study_result(found.result, folder)
    else:
        show_records(found.records, folder)
        show_missing(found.without)
    if (hint := advice(found.study, [run.record.run.label for run in found.runs])) is not None:
        console.print(hint, style="yellow", highlight=False, soft_wrap=True)


def tune_command(
    study_source: str, engine: str, only: Sequence[str], settings: Sequence[str], out: Path | None, jobs: int | None
) -> None:
    """``consilia tune``."""
    study, folder = planned(study_source, seeds=None, leave_out=(), train_cases=None, out=out)
    with _stopped_politely(folder), StudyView() as view:
        choices = tune_study(
            study,
            folder,
            engine=engine,
            labels=only or None,
            overrides=overrides(settings, None),
            jobs=jobs,
            progress=view,
        )
    print_table(chosen_settings(choices))
    console.print(f"Choices: {folder / TUNING / CHOICES}", highlight=False, soft_wrap=True)


@contextmanager
def _stopped_politely(folder: Path) -> Iterator[None]:
    """Say on Ctrl-C what is left."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"Stopped; {folder} keeps every full round. The same command goes on from there.", style="yellow")
        raise


def report_command(places: Sequence[Path], out: Path) -> None:
    """``consilia report``."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {out}: a report is a page, expected a name that ends in .html")
    paths = [path for place in places for path in _results(place)]
    records = [load_record(path) for path in paths]
    if len(apart := {tuple(test_only_sites(record)) for record in records if record.sites}) > 1:
        _left_out_report(places, records, apart, out.with_suffix(".csv"))
        return
    write_report(records, out, panels_of(records))
    console.print(f"{out}: {len(paths)} run(s)", highlight=False)


def _left_out_report(
    places: Sequence[Path], records: Sequence[Record], apart: Collection[tuple[str, ...]], out: Path
) -> None:
    """Of runs that left out different sites: the table of ``compare --leave-out all``, here and as csv; no page."""
    below = ", ".join(map(str, places))
    if () in apart or len({record.run.task for record in records}) > 1:
        raise ConfigError(
            f"the runs below {below} are tested on different sites, "
            f"{' and '.join(', '.join(sites) or 'their own' for sites in sorted(apart))}: name runs of one of them"
        )
    runs = [(", ".join(test_only_sites(record)), record) for record in records]
    print_table(left_out_comparison(runs))
    write_csv(out, *left_out_values(runs))
    console.print(
        f"{out}: {len(runs)} run(s) that left out different sites, all metrics of the last round. A page "
        "takes runs that left out the same one",
        highlight=False,
        soft_wrap=True,
    )


def export_command(
    method: str,
    study_source: str | None,
    out: Path,
    name: str | None,
    min_clients: int,
    rounds: int | None,
    seed: int,
    settings: Sequence[str],
    byoc: bool,
) -> None:
    """``consilia export``."""
    from consilia.deploy.byoc import add_code
    from consilia.flare.recipe import ConsiliaRecipe

    study = study_of(study_source, None)
    require_method(study, method)
    with TemporaryDirectory() as scratch:
        # The data are looked at only where the study leaves open what they decide.
        sites = {} if stands_alone(study, method) else study_sites(study, Path(scratch))
        config = study_config(study, method, seed, sites, overrides(settings, rounds))
    recipe = ConsiliaRecipe(config, name=name, min_clients=min_clients)
    job = out / recipe.name
    if job.exists() and not (job / "meta.json").is_file():
        raise ConfigError(f"{job} exists and is no job folder: choose another --out or --name")
    shutil.rmtree(job, ignore_errors=True)
    recipe.export(str(out))
    if byoc:
        add_code(job)
    console.print(
        f"{out / recipe.name}: submit it with: consilia submit {out / recipe.name} --kit KIT", highlight=False
    )


def load_plugin_file(plugins: Sequence[Path] | None) -> None:
    """Register the methods of a Python file, where one is given."""
    if plugins and len(plugins) > 1:
        raise ConfigError(
            f"--plugin is given {len(plugins)} times: put the methods into one file, or into an installed package with "
            "entry points"
        )
    for plugin in plugins or ():
        use_plugin(plugin)


def methods_command() -> None:
    """``consilia methods``."""
    table = Table("method", "what it does", "tasks", box=None)
    for name in method_names():
        method = method_class(name)
        summary = (method.__doc__ or "").strip().partition("\n")[0]
        table.add_row(name, summary, ", ".join(method.tasks))
    console.print(table)


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--seeds takes whole numbers with commas between them, got {text!r}") from None


def _results(place: Path) -> list[Path]:
    found = [place] if place.is_file() else sorted(place.rglob(RESULT))
    if not found:
        beside = [path.name for path in place.absolute().parent.glob("*") if path.is_dir() or path.suffix == ".json"]
        hint = "" if place.exists() or not beside else f"; {nearest(place.name, beside)}"
        raise ConfigError(f"no {RESULT} at or below {place}{hint}")
    # The simulator leaves a second record in its workspace, and a study's runs for its tuning are not compared.
    runs = {path.parent for path in found}
    own = [path for path in found if runs.isdisjoint(path.parents[1:]) and TUNING not in path.relative_to(place).parts]
    return own or found
