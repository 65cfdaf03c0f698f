"""``consilia``: every command that a person types. Heavy imports wait until a command needs them."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

import consilia
from consilia.cli.console import console, errors
from consilia.cli.friendly import friendly
from consilia.cli.help import WholeTexts
from consilia.cli.options import Engine, Overwrite, Plugin, Settings
from consilia.cli.site_app import site_app
from consilia.cli.study_app import compare, tune
from consilia.methods.commands import commands

app = typer.Typer(
    name="consilia",
    cls=WholeTexts,
    help="""Federated medical learning on NVIDIA FLARE: hospitals train one model, their files stay with them.

    \b
    consilia run fedkper                                     # embedded data, NVFlare's simulator
    consilia compare wisconsin --out runs/wisconsin          # all methods and baselines
    consilia run fedkper --data my-federation.yaml --rounds 50 --set training.learning_rate=0.005
    consilia site check site.yaml                            # is this site's data what the file says?
    consilia submit jobs/fedkper-busbra --kit KIT --follow   # hand a job to a federation of real sites
    consilia predict runs/x/global-last.safetensors --site site.yaml --cases new.csv
    """,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(site_app, name="site")

INTERRUPTED = 130


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"consilia {consilia.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Set up what every command needs."""


@app.command()
@friendly
def run(
    method: Annotated[str, typer.Argument(help="A method (consilia methods lists them), or one of the study file.")],
    data: Annotated[
        str | None, typer.Option(help="An embedded name, a folder of sites (*/site.yaml), or a federation file.")
    ] = None,
    study: Annotated[
        str | None, typer.Option("--study", "--config", help="A study file: data, model, training, methods.")
    ] = None,
    engine: Engine = "sim",
    rounds: Annotated[int | None, typer.Option(help="Rounds of federated training.")] = None,
    seed: Annotated[int, typer.Option(help="Decides initial weights, batches and sampling.")] = 0,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results; default runs/METHOD-seedN.")] = None,
    plugin: Plugin = None,
    overwrite: Overwrite = False,
    workers: Annotated[
        int, typer.Option(help="With --engine inprocess: processes that share the sites, one core each.")
    ] = 1,
) -> None:
    """Train one federation with one method, and print what came out.

    \b
    consilia run fedkper
    consilia run fedavg --engine inprocess --rounds 5
    consilia run fedkper --data configs/heart-disease.yaml --set method.max_kd_weight=5 --set dataset=diagnosis
    consilia run fedkper --study configs/studies/busbra.yaml --seed 1 --out runs/busbra-1
    consilia run qfedavg --plugin examples/methods/qfedavg.py

    Stopped with Ctrl-C it leaves a checkpoint: the same command goes on after the last full round.
    """
    from consilia.cli.running import load_plugin_file, run_command

    load_plugin_file(plugin)
    run_command(method, data, study, engine, rounds, seed, settings or [], out, overwrite, workers)


@app.command()
@friendly
def methods(plugin: Plugin = None) -> None:
    """List the methods that are installed, with what each does."""
    from consilia.cli.running import load_plugin_file, methods_command

    load_plugin_file(plugin)
    methods_command()


@app.command("config")
@friendly
def config_keys(
    method: Annotated[str, typer.Argument(help="A method (consilia methods lists them), or one of the study file.")],
    study: Annotated[
        str | None, typer.Option("--study", help="A study file, whose values are shown beside the defaults.")
    ] = None,
    plugin: Plugin = None,
) -> None:
    """List every key of a run's configuration with type, default and meaning.

    \b
    consilia config fedkper
    consilia config fedkper --study configs/studies/busbra.yaml
    consilia config qfedavg --plugin examples/methods/qfedavg.py
    """
    from consilia.cli.configuring import config_command
    from consilia.cli.running import load_plugin_file

    load_plugin_file(plugin)
    config_command(method, study)


app.command()(compare)
app.command()(tune)


@app.command()
@friendly
def report(
    places: Annotated[list[Path], typer.Argument(help="result.json files, or folders that hold them.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
) -> None:
    """Write one self-contained HTML report from the records of finished runs.

    \b
    consilia report runs/fedkper-seed0 --out fedkper.html
    consilia report runs/heart --out heart.html              # every run below the folder, compared
    """
    from consilia.cli.running import report_command

    report_command(places, out)


@app.command()
@friendly
def export(
    method: Annotated[str, typer.Argument(help="A method (consilia methods lists them), or one of the study file.")],
    study: Annotated[
        str | None, typer.Option("--study", "--config", help="A study file: data, model, training, methods.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The job folder is written below this one.")] = Path("jobs"),
    name: Annotated[str | None, typer.Option(help="The job's name; default: the method's label.")] = None,
    min_clients: Annotated[int, typer.Option(help="Connected sites that NVFlare waits for.")] = 2,
    rounds: Annotated[int | None, typer.Option(help="Rounds of federated training.")] = None,
    seed: Annotated[int, typer.Option(help="Decides initial weights, batches and sampling.")] = 0,
    settings: Settings = None,
    byoc: Annotated[
        bool, typer.Option("--byoc", help="Bring your own code: put Consilia into the job. Read below first.")
    ] = False,
) -> None:
    """Write a submit-ready NVFlare job folder. It carries no code: server and sites have Consilia installed.

    \b
    consilia export fedkper --study configs/studies/busbra.yaml --out jobs --name fedkper-busbra
    consilia export fedkper --byoc --name fedkper-byoc

    With --byoc the job brings Consilia along, for a federation that has not installed it; sites still need the packages
    that it stands on. A site that allows such jobs (the right byoc in its authorization.json) runs whatever code a job
    brings, with the rights of its own process: that code can read what the process can read and open connections of its
    own, and neither the list of classes nor the filter of what leaves can hold it. A site with consilia site install
    refuses such jobs.
    """
    from consilia.cli.running import export_command

    export_command(method, study, out, name, min_clients, rounds, seed, settings or [], byoc)


AdminKit = Annotated[Path, typer.Option("--kit", help="An administrator's startup kit.")]
Follow = Annotated[bool, typer.Option("--follow", help="Show rounds and sites until the job ends.")]
Download = Annotated[
    Path | None, typer.Option(help="Fetch the result into DIR/JOB_ID when the job has ended; follows it till then.")
]
Retries = Annotated[
    int, typer.Option(min=0, help="How often a job that is broken off while it is followed is resumed by itself.")
]


@app.command()
@friendly
def submit(
    job: Annotated[Path, typer.Argument(help="An exported job folder.")],
    kit: AdminKit,
    follow: Follow = False,
    download: Download = None,
    retries: Retries = 3,
) -> None:
    """Hand a job to a federation.

    \b
    consilia submit jobs/fedkper-wisconsin --kit kits/lead@consortium.org --follow --download results

    While it is followed, a job that is broken off (a process or the server was lost) is resumed after its last full
    round; not one that was aborted, or whose run itself says why it cannot go on. Ctrl-C leaves the job running.
    """
    from consilia.cli.submitting import Wanted, submit_command

    submit_command(job, kit, Wanted(follow, download, retries))


@app.command()
@friendly
def resume(
    job_id: Annotated[str, typer.Argument(help="A job that ended too early.")],
    kit: AdminKit,
    follow: Follow = False,
    download: Download = None,
    retries: Retries = 3,
) -> None:
    """Go on with a job that ended too early, after its last full round, as a new job.

    \b
    consilia resume 4f9f7f2f-f453-4358-8af1-c11ef5d418e5 --kit kits/lead@consortium.org --follow
    """
    from consilia.cli.submitting import Wanted, resume_command

    resume_command(job_id, kit, Wanted(follow, download, retries))


@app.command("follow")
@friendly
def follow_job(
    job_id: Annotated[str, typer.Argument(help="A submitted job.")],
    kit: AdminKit,
    download: Download = None,
    retries: Retries = 0,
) -> None:
    """Show a job's progress from its first event on, to its end.

    \b
    consilia follow 4f9f7f2f-f453-4358-8af1-c11ef5d418e5 --kit kits/lead@consortium.org --download results
    """
    from consilia.cli.submitting import Wanted, follow_command

    follow_command(job_id, kit, Wanted(True, download, retries))


@app.command()
@friendly
def predict(
    model: Annotated[Path, typer.Argument(help="A saved model: global-*.safetensors or personal-*.safetensors.")],
    site: Annotated[Path, typer.Option(help="The site.yaml whose preprocessing prepares the cases.")],
    cases: Annotated[
        Path,
        typer.Option(
            help="New cases: a csv (of features, or of images' paths), an image, a folder of images, npz, ..."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The csv to write (default predictions.csv), or the folder of masks (masks).")
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="Segmentation: a csv with case, x1, y1, x2, y2 in pixels; else the whole image.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Of site.yaml: says how the cases are read; default: the model's own.")
    ] = None,
) -> None:
    """Apply a saved global or personal model to new cases.

    A classifier writes a csv with the answer and a probability per class, a segmenter a mask per image or volume. A
    case that cannot be read is a row with the reason, and the exit status is then 1.

    \b
    consilia predict runs/x/global-last.safetensors --site hospital/site.yaml --cases new.csv --out new-answers.csv
    consilia predict runs/y/global-best.safetensors --site hospital/site.yaml --cases scans/ --boxes where.csv
    """
    from consilia.cli.predicting import predict_command

    predict_command(model, site, cases, out, boxes, dataset)


@app.command()
@friendly
def evaluate(
    model: Annotated[Path, typer.Argument(help="A saved model: global-*.safetensors or personal-*.safetensors.")],
    site: Annotated[Path, typer.Option(help="The site.yaml that says where the labelled cases are.")],
    dataset: Annotated[str | None, typer.Option(help="Of site.yaml; default: the model's own.")] = None,
    split: Annotated[
        str, typer.Option(help="test: the site's test split; all: every case, at a site that has not trained it.")
    ] = "test",
    out: Annotated[Path, typer.Option(help="Folder for the page, the metrics and a table of all cases.")] = Path(
        "evaluation"
    ),
) -> None:
    """Say how good a saved model is on a site's own labelled cases: metrics with intervals, a page, and JSON.

    \b
    consilia evaluate runs/x/global-best.safetensors --site hospital/site.yaml --out evaluation
    consilia evaluate model.safetensors --site unseen/site.yaml --dataset lesions --split all

    Intervals are 95 % ones over draws of the site's patients. Nothing leaves the site.
    """
    from consilia.cli.evaluating import evaluate_command

    evaluate_command(model, site, dataset, split, out)


for _name, _command in commands().items():
    app.command(_name)(friendly(_command))


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def entry() -> None:
    """The console script: also tells Ctrl-C from an error by the exit status."""
    # A closed terminal or a stopped service must end the simulator's processes too, as Ctrl-C does.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _interrupt)
    try:
        app()
    except KeyboardInterrupt:
        errors.print("Stopped.", style="yellow")
        sys.exit(INTERRUPTED)
