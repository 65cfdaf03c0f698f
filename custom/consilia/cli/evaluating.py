"""``consilia evaluate``: a saved model on a site's own labelled cases."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.table import Table

from consilia.api import evaluate
from consilia.cli.console import console
from consilia.core.task import Task
from consilia.evaluation.segmentation_metrics import PROMPTS
from consilia.federation.model_evaluation import METRICS, PAGE, Evaluated

SHOWN = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "operating.accuracy": "accuracy",
    "operating.balanced_accuracy": "balanced accuracy",
    "operating.sensitivity": "sensitivity",
    "operating.specificity": "specificity",
    "operating.ppv": "positive predictive value",
    "operating.npv": "negative predictive value",
    "operating.f1": "F1",
    "brier": "Brier score",
    "ece": "calibration error",
}
"""Metrics of a classification in the terminal; at the model's threshold where they need one."""

OUTLINED = {
    f"prompts.{setting}.{name}": f"{heading}, {prompt}"
    for setting, prompt in PROMPTS.items()
    for name, heading in (("dice", "Dice"), ("iou", "IoU"), ("hd95", "HD95"), ("missed_share", "share missed"))
}
"""Metrics of a segmentation."""

RANKED = {"c_index": "C-index", "loss": "negative log partial likelihood per case"}
"""Metrics of a survival."""

BY_TASK: dict[Task, dict[str, str]] = {"classification": SHOWN, "segmentation": OUTLINED, "survival": RANKED}


def evaluate_command(model: Path, site: Path, dataset: str | None, split: str, out: Path) -> None:
    """Print the metrics, and write them with a page and a table of all cases."""
    found = evaluate(model, site=site, dataset=dataset, split=split, out=out)
    support = f"{len(found.data.test)} cases"
    if (patients := found.metrics.get("patients")) is not None:
        support += f" of {patients} patients" if found.data.test.patients else ", patients not named"
    if (positives := found.metrics.get("positives")) is not None:
        support += f", {positives} {found.card.class_names[1]}"
    if (events := found.metrics.get("events")) is not None:
        support += f", {events} {found.card.class_names[1]}"
    console.print(f"{model.name} at {found.data.site}, dataset {found.data.name}: {support}", highlight=False)
    console.print(_table(found))
    for note in (*found.notes, f"Inputs: {found.preprocessing}."):
        console.print(note, highlight=False, soft_wrap=True)
    console.print(f"{out / PAGE}; the same as numbers: {out / METRICS}", highlight=False, soft_wrap=True)


def _table(found: Evaluated) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric")
    for column in ("value", "95 % interval"):
        table.add_column(column, justify="right")
    values = {row.metric: row for row in found.to_frame().itertuples()}
    for name, heading in BY_TASK[found.card.task].items():
        if name in values:
            row = values[name]
            if name.endswith("hd95"):
                heading += f" ({found.metrics['unit']})"
            interval = "" if row.low is None or row.low != row.low else f"{row.low:.3f} to {row.high:.3f}"
            value = f"{row.value:.3f}" if isinstance(row.value, float) else str(row.value)
            table.add_row(heading, value, interval)
    return table
