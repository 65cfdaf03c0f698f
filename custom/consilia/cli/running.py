"""The commands that run, compare, report and export: they read options, and print what the functions below give."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from consilia.cli.console import console
from consilia.cli.progress import RunView
from consilia.cli.show import show_records, show_study
from consilia.core.errors import ConfigError
from consilia.core.schema import nearest
from consilia.evaluation.rounds import test_only_sites
from consilia.federation.run_folder import RESULT
from consilia.methods.registry import load_plugin, method_class, method_names, plugin_digest
from consilia.methods.shown import panels_of
from consilia.record.files import load_record
from consilia.report.html import write_report
from consilia.simulation.federation import EMBEDDED_DATA
from consilia.study.baselines import BASELINES
from consilia.study.running import run_method, run_study
from consilia.study.study import (
    EACH,
    Study,
    advice,
    load_study,
    require_method,
    stands_alone,
    study_config,
    study_sites,
)


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
) -> None:
    """``consilia run``."""
    study = _study(study_source, data)
    folder = out or Path("runs") / f"{method}-seed{seed}"
    with _stopped_politely(folder), RunView() as view:
        run = run_method(
            study,
            method,
            folder,
            engine=engine,
            seed=seed,
            overrides=_with_rounds(settings, rounds),
            overwrite=overwrite,
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
) -> None:
    """``consilia compare``."""
    study, name = load_study(study_source), Path(study_source).stem
    if leave_out:
        sites = tuple(site.strip() for given in leave_out for site in given.split(","))
        study = study.changed(leave_out=sites)
        name += "-without-" + "-".join("each" if site == EACH else site for site in dict.fromkeys(sites))
    if train_cases is not None:
        study = study.changed(train_cases=_cases(train_cases))
        name += f"-train-{train_cases:g}"
    if seeds is not None:
        study = study.changed(seeds=_seeds(seeds))
    folder = out or Path("runs") / name
    with _stopped_politely(folder), RunView() as view:
        runs = run_study(
            study, folder, engine=engine, labels=only or None, overrides=_with_rounds(settings, rounds), progress=view
        )
    show_study(runs, folder)
    if (hint := advice(study, [run.record.run.label for run in runs])) is not None:
        console.print(hint, style="yellow", highlight=False, soft_wrap=True)


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
        raise ConfigError(
            f"the runs below {', '.join(map(str, places))} are tested on different sites, "
            f"{' and '.join(', '.join(sites) or 'their own' for sites in sorted(apart))}: name runs of one of them"
        )
    write_report(records, out, panels_of(records))
    console.print(f"{out}: {len(paths)} run(s)", highlight=False)


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

    study = _study(study_source, None)
    require_method(study, method)
    with TemporaryDirectory() as scratch:
        # The data are looked at only where the study leaves open what they decide.
        sites = {} if stands_alone(study, method) else study_sites(study, Path(scratch))
        config = study_config(study, method, seed, sites, _with_rounds(settings, rounds))
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
        load_plugin(plugin)
        for name in BASELINES:
            if plugin_digest(name) is not None:
                raise ConfigError(f"plugin {plugin}: {name} is the name of a baseline: choose another name")


def methods_command() -> None:
    """``consilia methods``."""
    table = Table("method", "what it does", "tasks", box=None)
    for name in method_names():
        method = method_class(name)
        summary = (method.__doc__ or "").strip().partition("\n")[0]
        table.add_row(name, summary, ", ".join(method.tasks))
    console.print(table)


def _study(source: str | None, data: str | None) -> Study:
    """The study file's settings; data without a study file start from the defaults, not from another set's tuning."""
    if data is None:
        return load_study(source or "wisconsin")
    study = load_study(source) if source else Study()
    known = data in EMBEDDED_DATA
    return study.model_copy(update={"data": data if known else str(Path(data).absolute())})


def _with_rounds(settings: Sequence[str], rounds: int | None) -> list[str]:
    return [*settings, *([] if rounds is None else [f"rounds={rounds}"])]


def _cases(number: float) -> int | float:
    if 0 < number < 1:
        return number
    if number < 1 or number != int(number):
        raise ConfigError(f"--train-cases takes a whole number of cases, or a fraction below 1; got {number:g}")
    return int(number)


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
    return found
