"""The commands that run, compare, report and export."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from consilia.cli.console import console
from consilia.cli.curves import round_curves
from consilia.cli.show import Follower, comparison, progress_bar, text_table
from consilia.core.checkpoint import CheckpointStore
from consilia.core.errors import ConfigError
from consilia.federation.checkpoints import CHECKPOINT
from consilia.federation.config import RunConfig
from consilia.federation.inprocess import run_inprocess
from consilia.federation.outputs import EVENTS, REPORT, SAVED
from consilia.federation.run_folder import PROGRESS, RESULT
from consilia.federation.server_settings import own_server
from consilia.federation.server_work import FOLDER
from consilia.methods.registry import load_plugin, method_class, method_names, plugin_digest
from consilia.methods.shown import panels_of, tables_of
from consilia.record.files import load_record
from consilia.record.schema import Record
from consilia.report.html import write_report
from consilia.study.baselines import BASELINES
from consilia.study.study import (
    Study,
    embedded_studies,
    finished,
    load_study,
    run_study,
    stands_alone,
    study_config,
    study_sites,
)

ENGINES = ("sim", "inprocess")
OUTPUTS = (
    *(RESULT, REPORT, PROGRESS, EVENTS, CHECKPOINT, "global-*.safetensors", "spool", "sites"),
    *("simulator", "simulator.log", "run.json", "errors.log", FOLDER, SAVED),
)
"""What a run of either engine leaves in its folder."""


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
    _refuse_baseline(method)
    study, start = _study(study_source, data), _engine(engine)
    folder = out or Path("runs") / f"{method}-seed{seed}"
    if overwrite:
        _clear(folder)
    sites = study_sites(study, folder / "sites")
    config = study_config(study, method, seed, sites, _with_rounds(settings, rounds))
    record = finished(folder, config, sites)
    if record is not None:
        console.print(f"{folder} holds this run's record already; --overwrite runs it again.")
    else:
        record = start(config, sites, folder)
    show_records([record], folder)


def compare_command(
    study_source: str,
    engine: str,
    only: Sequence[str],
    seeds: str | None,
    rounds: int | None,
    leave_out: str | None,
    train_cases: float | None,
    settings: Sequence[str],
    out: Path | None,
) -> None:
    """``consilia compare``."""
    study = load_study(study_source)
    if leave_out is not None:
        study = study.model_copy(update={"leave_out": leave_out})
    if train_cases is not None:
        study = study.model_copy(update={"train_cases": _cases(train_cases)})
    if seeds is not None:
        study = study.model_copy(update={"seeds": _seeds(seeds)})
    name = Path(study_source).stem
    name += "" if leave_out is None else f"-without-{leave_out}"
    name += "" if train_cases is None else f"-train-{train_cases:g}"
    folder = out or Path("runs") / name

    def announce(name: str, known: bool) -> None:
        console.print(f"{name}: " + ("record found, not run again" if known else "running"), highlight=False)

    records = run_study(
        study,
        folder,
        _engine(engine),
        labels=only or None,
        overrides=_with_rounds(settings, rounds),
        announce=announce,
    )
    show_records(records, folder)


def report_command(places: Sequence[Path], out: Path) -> None:
    """``consilia report``."""
    paths = [path for place in places for path in _results(place)]
    records = [load_record(path) for path in paths]
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

    _refuse_baseline(method)
    study = _study(study_source, None)
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
    known = data in embedded_studies()
    return study.model_copy(update={"data": data if known else str(Path(data).absolute())})


def _engine(name: str):  # type: ignore[no-untyped-def]
    if name not in ENGINES:
        raise ConfigError(f"--engine must be one of {', '.join(ENGINES)}; got {name!r}")

    def run(config: RunConfig, sites: Mapping[str, Path], folder: Path) -> Record:
        server = own_server(config, sites)
        _say_resuming(folder)
        try:
            with progress_bar() as bar:
                follower = Follower(bar, f"{config.label} seed {config.seed}", config.rounds)
                if name == "inprocess":
                    return run_inprocess(config, sites, folder, server=server, progress=follower)
                from consilia.flare.simulator import run_simulator

                return run_simulator(config, sites, folder, server=server, progress=follower)
        except KeyboardInterrupt:
            console.print(
                f"Stopped; {folder} keeps every full round. The same command goes on from there.", style="yellow"
            )
            raise

    return run


def _refuse_baseline(method: str) -> None:
    if method in BASELINES:
        raise ConfigError(f"{method} is a baseline, not a federated method: consilia compare --only {method}")


def _clear(folder: Path) -> None:
    """Remove what a run leaves, and nothing else."""
    if not folder.exists():
        return
    if not ((folder / RESULT).is_file() or (folder / CHECKPOINT).is_dir()):
        raise ConfigError(
            f"--overwrite: {folder} holds no run (neither {RESULT} nor {CHECKPOINT}/): nothing is deleted"
        )
    for name in OUTPUTS:
        for path in folder.glob(name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _say_resuming(folder: Path) -> None:
    store = CheckpointStore(folder / CHECKPOINT)
    if store.exists():
        console.print(f"Resuming after round {store.load().state.get('version')}.", highlight=False)


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
        raise ConfigError(f"no {RESULT} at or below {place}")
    return found


def show_records(records: Sequence[Record], folder: Path) -> None:
    """Print the metrics of runs, what went wrong on the way, and where the report is."""
    tables = tables_of(records)
    for table in tables:
        console.print(text_table(table))
    if not tables:
        console.print(comparison(records))
        if (curves := round_curves(records)) is not None:
            console.print()
            console.print(curves)
    for record in records:
        troubles = {site: reason for item in record.rounds for site, reason in item.refused.items()}
        for site, reason in troubles.items():
            console.print(f"{record.run.name}: an update of {site} was refused: {reason}", style="yellow")
        for absence in record.absences:
            until = f"until {absence.until}" if absence.until else "and was not heard again"
            console.print(
                f"{record.run.name}: {absence.site} did not answer from {absence.since} {until}", style="yellow"
            )
    console.print(f"Report: {folder / REPORT}", highlight=False, soft_wrap=True)
