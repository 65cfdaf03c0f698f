"""``consilia predict``: a saved model on new cases."""

from __future__ import annotations

from pathlib import Path

import typer

from consilia.cli.console import console, errors
from consilia.core.errors import ConfigError
from consilia.federation.saved_model import load_model


def predict_command(
    model_file: Path, site: Path, cases: Path, out: Path | None, boxes: Path | None, dataset: str | None
) -> None:
    """Write the answer for each new case, in the cases' own order: a csv, and for a segmentation masks beside it.

    Exit status 1 where a case could not be read; the others are answered.
    """
    model = load_model(model_file, site)
    out = out or Path("masks" if model.card.task == "segmentation" else "predictions.csv")
    if out.exists():
        raise ConfigError(f"{out} exists: choose another --out")
    if lacking := model.card.lacking():
        console.print(f"The card of {model_file} is an older version's: it says nothing of {', '.join(lacking)}")
    predicted = model.predict(cases, dataset, boxes)
    predicted.write(out)
    card = model.card
    console.print(f"{out}: {predicted.summary()}", highlight=False, soft_wrap=True)
    console.print(f"{card.kind} model of {card.method}, {predicted.preprocessing}", highlight=False, soft_wrap=True)
    if predicted.cases.failed:
        errors.print(f"{len(predicted.cases.failed)} case(s) could not be read", style="bold red")
        raise typer.Exit(1)
