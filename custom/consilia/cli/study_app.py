"""The commands of a study: ``compare`` and ``tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from consilia.cli.friendly import friendly
from consilia.cli.options import Engine, Jobs, Plugin, Settings


@friendly
def compare(
    study: Annotated[
        str, typer.Argument(help="A study file, or the name of an embedded study: wisconsin, label-skew, ...")
    ] = "wisconsin",
    engine: Engine = "inprocess",
    only: Annotated[list[str] | None, typer.Option("--only", help="Some of the study's methods and baselines.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, e.g. 0,1,2; default: the study's.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of federated training.")] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            help="A site that trains nothing and is tested on: the unseen centre. Several (or all): each in turn. With "
            "new_site in the study: and what a few labelled cases of it are worth."
        ),
    ] = None,
    train_cases: Annotated[
        float | None, typer.Option(help="Training cases used per site, or a fraction of them: few data.")
    ] = None,
    jobs: Jobs = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results; default runs/STUDY.")] = None,
    plugin: Plugin = None,
) -> None:
    """Run a study (methods x seeds), print the table and write the comparison report.

    \b
    consilia compare wisconsin --only fedavg --only fedkper --engine sim
    consilia compare configs/studies/heart-disease.yaml --seeds 0,1,2 --out runs/heart
    consilia compare wisconsin --only fedavg --leave-out all

    Runs whose record is there already are not run again, so a study may take several sittings.
    """
    from consilia.cli.running import compare_command, load_plugin_file

    load_plugin_file(plugin)
    compare_command(study, engine, only or [], seeds, rounds, leave_out or [], train_cases, settings or [], out, jobs)


@friendly
def tune(
    study: Annotated[str, typer.Argument(help="A study file, or the name of an embedded study: wisconsin, ...")],
    engine: Engine = "inprocess",
    only: Annotated[list[str] | None, typer.Option("--only", help="Some of the study's methods and baselines.")] = None,
    jobs: Jobs = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the study; default runs/STUDY.")] = None,
    plugin: Plugin = None,
) -> None:
    """Choose learning rates and methods' own parameters on validation cases, by one grid for all.

    \b
    consilia tune configs/studies/heart-disease.yaml --out runs/heart

    The grid is the study's key tune, or the default one. Choices are in the folder's tuning/choices.json; consilia
    compare on a study with the key tune makes them itself, and takes them. Test cases play no part.
    """
    from consilia.cli.running import load_plugin_file, tune_command

    load_plugin_file(plugin)
    tune_command(study, engine, only or [], settings or [], out, jobs)
