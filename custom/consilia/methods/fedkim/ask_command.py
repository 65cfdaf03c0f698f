"""What ``consilia ask`` does: an injected model answers one task about new cases."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.table import Table

from consilia.core.errors import ConfigError
from consilia.core.files import write_csv
from consilia.core.terminal import PlainConsole
from consilia.data.loading import NewCases, load_new_cases
from consilia.data.site import SiteConfig, load_site_config
from consilia.methods.fedkim.cases import OPEN, Cases
from consilia.methods.fedkim.evaluation import pieces
from consilia.methods.fedkim.saved import Saved, load_injected
from consilia.methods.fedkim.task_definitions import TEXT, TaskDefinitions

READ_BY = {
    "images": "image",
    "medmnist": "image",
    "signals": "signal",
    "timeseries": "series",
    "tabular": "table",
}
"""Formats of datasets, and the kind of encoder that reads them."""


def ask_command(
    folder: Path,
    task: str,
    site: Path,
    source: Path | None,
    question: str | None,
    dataset: str | None,
    out: Path | None,
) -> None:
    """Print (and write) the answer to each case with the probability of every candidate."""
    if out is not None and out.exists():
        raise ConfigError(f"{out} exists: choose another --out")
    settings = load_site_config(site)
    saved = load_injected(folder, settings)
    task_definitions = saved.method.task_definitions
    _check(task_definitions, task, source, question)
    new = None if source is None else _new_cases(saved, settings, site, task, dataset or task, source)
    names, answers, probabilities, texts = _answers(saved, _cases(task_definitions, task, new, question), new)
    candidates = task_definitions.tasks[task].answers
    header = ["case", "answer", *(f"p_{name}" for name in candidates), *(["text"] if texts else [])]
    rows = [
        [name, answer, *(f"{value:.4f}" for value in row), *(texts[place : place + 1])]
        for place, (name, answer, row) in enumerate(zip(names, answers, probabilities.tolist(), strict=True))
    ]
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    PlainConsole().print(table)
    if out is not None:
        write_csv(out, header, rows)


def _check(task_definitions: TaskDefinitions, task: str, source: Path | None, question: str | None) -> None:
    known = task_definitions.task(task)
    if known.question is None and question is None:
        raise ConfigError(f"task {task} has no question of its own: ask one with --question")
    if known.question is not None and question is not None:
        raise ConfigError(f"task {task} asks {known.question!r}: leave --question out")
    if known.encoded and source is None:
        raise ConfigError(f"task {task} is about {' and '.join(known.encoded)}: name the cases' file or folder")
    if not known.encoded and source is not None:
        raise ConfigError(f"task {task} is {TEXT} alone: leave {source} out")


def _new_cases(saved: Saved, settings: SiteConfig, site: Path, task: str, dataset: str, source: Path) -> NewCases:
    found = settings.dataset(dataset).format
    for modality in saved.method.task_definitions.tasks[task].encoded:
        encoder = saved.network.args["encoders"].get(modality)
        if encoder is None:
            raise ConfigError(f"task {task} is about {modality}, for which the model of this run has no encoder")
        kind = encoder["kind"]
        if READ_BY.get(found) != kind:
            raise ConfigError(
                f"task {task} is about {modality}, read by an encoder of kind {kind}; dataset {dataset!r} of {site} "
                f"holds {found}: choose another with --dataset"
            )
    return load_new_cases(site, dataset, source)


def _cases(task_definitions: TaskDefinitions, task: str, new: NewCases | None, question: str | None) -> Cases:
    count = 1 if new is None else len(new.ids)
    text = question if question is not None else task_definitions.tasks[task].question
    assert text is not None  # _check has looked
    return Cases(
        task,
        None if new is None else new.inputs,
        torch.arange(count) if new is not None else torch.zeros(1, dtype=torch.int64),
        (text,) * count,
        ("",) * count,
        torch.full((count,), OPEN),
        ("",) * count,
    )


def _answers(saved: Saved, cases: Cases, new: NewCases | None) -> tuple[list[str], list[str], torch.Tensor, list[str]]:
    model = saved.model
    candidates = model.task_definitions.tasks[cases.task].answers
    try:
        probabilities = torch.cat([model.probabilities(piece) for piece in pieces(cases)])
        # Where a question is the user's own, its answer may be none of the candidates.
        free = model.task_definitions.tasks[cases.task].question is None
        texts = [text for piece in pieces(cases) for text in model.decode(piece)] if free else []
    except (RuntimeError, ValueError) as error:
        shape = None if cases.inputs is None else tuple(cases.inputs.shape)
        raise ConfigError(f"the model does not take inputs of shape {shape}: {error}") from error
    names = ["question"] if new is None else list(new.ids)
    return names, [candidates[int(best)] for best in probabilities.argmax(dim=1)], probabilities, texts
