"""``consilia site``: what a site's data manager, FL engineer and security officer type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from consilia.cli.console import console, errors
from consilia.cli.friendly import friendly
from consilia.cli.help import WholeTexts

site_app = typer.Typer(
    cls=WholeTexts,
    help="What a site's people type: is the data right, is the site ready, what does a job send.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

KitFolder = Annotated[Path, typer.Option("--kit", help="The startup kit: the folder with startup/ and local/.")]
Job = Annotated[Path, typer.Argument(help="An exported job folder, or a job's run folder in the kit.")]


@site_app.command("check")
@friendly
def site_check(
    site: Annotated[Path, typer.Argument(help="The site's site.yaml.")],
    dataset: Annotated[list[str] | None, typer.Option("--dataset", help="Check these datasets only.")] = None,
) -> None:
    """Read everything that site.yaml names and say what is there and what is wrong. Nothing is written.

    \b
    consilia site check site_configs/example/site.yaml

    Exit status: 0 ready (perhaps with warnings), 1 not ready.
    """
    from consilia.data.check import check_site
    from consilia.data.check_view import render

    reports = check_site(site, dataset or None)
    for item in reports:
        console.print(render(item))
    if any(item.errors for item in reports):
        errors.print(f"{site}: not ready", style="bold red")
        raise typer.Exit(1)
    console.print(f"{site}: ready", style="green")


@site_app.command("prepare")
@friendly
def site_prepare(
    site: Annotated[Path, typer.Argument(help="The site's site.yaml.")],
    dataset: Annotated[list[str] | None, typer.Option("--dataset", help="These datasets only.")] = None,
) -> None:
    """Fit the site's own preprocessing, for models that are used at a site that has not trained.

    \b
    consilia site prepare hospital/site.yaml --dataset mass

    Mean and standard deviation, say, are taken from the site's training split (a test-only site's own cases) and
    written into state_dir. Nothing is trained, and nothing leaves the site.
    """
    from consilia.cli.preparing import prepare_command

    prepare_command(site, dataset or [])


@site_app.command("foundation")
@friendly
def site_foundation(
    folder: Annotated[
        Path, typer.Argument(help="A folder with config.json and safetensors; a language model's with tokenizer.json.")
    ],
) -> None:
    """Print the lines by which site.yaml (or server.yaml) names a foundation model: its folder and its digest.

    \b
    consilia site foundation /models/vit-b16
    """
    from consilia.data.allowed import FoundationFolder
    from consilia.models.foundation import foundation_digest, is_language_model, read_description, read_foundation
    from consilia.models.language import load_language_model

    place = FoundationFolder(folder=folder.absolute(), digest=foundation_digest(folder))
    # A model that cannot be read is better found now.
    if is_language_model(read_description(place.folder)):
        load_language_model(folder.name, place.digest, {folder.name: place}, dtype="auto")
    else:
        read_foundation(place)
    typer.echo(f"foundation_models:\n  {folder.name}: {{folder: {place.folder}, digest: {json.dumps(place.digest)}}}")


@site_app.command("install")
@friendly
def site_install(
    kit: KitFolder,
    config: Annotated[Path | None, typer.Option(help="The site.yaml to install; at the server a server.yaml.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Put back what was there before the installation.")] = False,
) -> None:
    """Make a startup kit ready for Consilia's jobs: merge its settings into local/, and show what changes.

    \b
    consilia site install --kit hospital-1 --config site.yaml --dry-run
    consilia site install --kit hospital-1 --config site.yaml
    consilia site install --kit hospital-1 --undo
    """
    from consilia.cli.installing import install_command

    install_command(kit, config, dry_run, undo)


@site_app.command("doctor")
@friendly
def site_doctor(
    kit: KitFolder,
    job: Annotated[Path | None, typer.Option(help="An exported job folder: is the site ready for this job?")] = None,
) -> None:
    """Is this site (or server) ready? A line per check, and what to do where one fails. Nothing is written.

    \b
    consilia site doctor --kit hospital-1
    consilia site doctor --kit hospital-1 --job jobs/fedkper-wisconsin

    Exit status: 0 ready (perhaps with warnings), 1 not ready.
    """
    from consilia.cli.installing import doctor_command

    doctor_command(kit, job)


@site_app.command("manifest")
@friendly
def site_manifest(
    job: Job,
    kit: Annotated[Path | None, typer.Option("--kit", help="Also say whether this site has approved it.")] = None,
) -> None:
    """Print what a job asks of its sites, and all that they send, for a security officer.

    \b
    consilia site manifest jobs/fedkper-wisconsin --kit hospital-1
    """
    from consilia.cli.release import manifest_command

    manifest_command(job, kit)


@site_app.command("approve")
@friendly
def site_approve(
    job: Job,
    kit: KitFolder,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take an approval back.")] = False,
) -> None:
    """Let this site do and send in a job what consilia site manifest prints for it, and nothing else.

    \b
    consilia site approve jobs/fedkper-wisconsin --kit hospital-1
    consilia site approve jobs/fedkper-wisconsin --kit hospital-1 --withdraw
    """
    from consilia.cli.release import approve_command

    approve_command(job, kit, withdraw)


RunSite = Annotated[Path | None, typer.Option("--site", help="Instead of a kit: the site's site.yaml.")]
RunKit = Annotated[Path | None, typer.Option("--kit", help="The site's startup kit.")]


@site_app.command("runs")
@friendly
def site_runs(kit: RunKit = None, site: RunSite = None) -> None:
    """What this site has taken part in: dates, rounds, disk used, approvals, and the limits spent and left.

    \b
    consilia site runs --kit hospital-1
    """
    from consilia.cli.site_runs import runs_command

    runs_command(kit, site)


@site_app.command("forget")
@friendly
def site_forget(
    run: Annotated[str, typer.Argument(help="The run's id, as consilia site runs prints it.")],
    kit: RunKit = None,
    site: RunSite = None,
) -> None:
    """Remove what this site keeps of a run: its personal models, its state and its reports. A line of it stays.

    \b
    consilia site forget fedkper-0123456789ab --kit hospital-1
    """
    from consilia.cli.site_runs import forget_command

    forget_command(run, kit, site)
