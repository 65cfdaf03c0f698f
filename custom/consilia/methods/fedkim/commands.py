"""FedKIM's commands. Heavy imports wait until a command is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def ask(
    model: Annotated[Path, typer.Argument(help="A saved injected model: the folder injected of a FedKIM run.")],
    task: Annotated[str, typer.Option(help="A task of the model's task_definitions.")],
    site: Annotated[Path, typer.Option(help="The site.yaml whose preprocessing prepares the cases.")],
    cases: Annotated[
        Path | None, typer.Option(help="New cases: a csv, an image or a folder of images, records, parquet.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="For tasks of free questions: what to ask of each case.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="The dataset of site.yaml that such cases belong to; default: the task.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the answers as csv.")] = None,
) -> None:
    """Ask an injected language model about new cases: the answer, and the probability of every candidate.

    \b
    consilia ask runs/fedkim/injected --task pneumonia --site hospital/site.yaml --cases chest.png
    consilia ask runs/fedkim/injected --task vqa-rad --site hospital/site.yaml --dataset pneumonia --cases chest.png \
      --question "Is the heart enlarged?"
    """
    from consilia.methods.fedkim.ask_command import ask_command

    ask_command(model, task, site, cases, question, dataset, out)
