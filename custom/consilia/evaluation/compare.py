"""Comparison of runs: the seeds of each label become one row of means and sample standard deviations."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from consilia.core.errors import ConfigError
from consilia.core.task import Task
from consilia.evaluation.figures import FIGURES, show, show_spread
from consilia.evaluation.rounds import task_of
from consilia.evaluation.summary import summarise

HEADLINE: dict[Task, tuple[str, ...]] = {
    "classification": (
        "last.global_accuracy",
        "last.personal_accuracy",
        "last.balance",
        "last.worst_site.accuracy",
        "last.global_auroc",
        "last.personal_auroc",
    ),
    "segmentation": (
        "last.global_dice_box",
        "last.global_dice_image",
        "last.global_dice_jitter",
        "last.global_iou_box",
        "last.global_hd95_box",
        "last.personal_dice_box",
    ),
}


def group_by_label(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Records by ``run.label``, in the order in which the labels first appear.

    Raises:
        ConfigError: one label holds two methods or one seed twice; a repeated seed is no second sample, and would
            make the spread look smaller than it is.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        run = record["run"]
        for other in (one["run"] for one in groups.get(run["label"], [])):
            if other["seed"] == run["seed"] or other["method"] != run["method"]:
                raise ConfigError(
                    f"runs {other['id']} and {run['id']} share the label {run['label']!r}: expected one method and "
                    f"different seeds, got {other['method']}, seed {other['seed']} and {run['method']}, "
                    f"seed {run['seed']}"
                )
        groups.setdefault(run["label"], []).append(record)
    return groups


def comparison_table(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per label: ``label``, ``method``, ``task``, ``seeds`` (list), and ``figures``.

    ``figures`` maps the dotted path of every number in the summary (``last.global_accuracy``, ...) to ``mean``, ``sd``
    (sample standard deviation; None below two values) and ``n`` (the seeds for which it is defined). A record may carry
    its ``summary`` in place of its rounds.

    Raises:
        ConfigError: runs of different tasks, or what :func:`group_by_label` raises.
    """
    _one_task(records)
    return [
        {
            "label": label,
            "method": group[0]["run"]["method"],
            "task": task_of(group[0]),
            "seeds": [record["run"]["seed"] for record in group],
            "figures": _spread([_numbers(record.get("summary") or summarise(record)) for record in group]),
        }
        for label, group in group_by_label(records).items()
    ]


def to_markdown(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str] | None = None) -> str:
    """A Markdown table of ``metrics`` (dotted paths), one line per row; undefined figures are a dash.

    ``metrics`` None shows the headline figures of the task.
    """
    task: Task = rows[0]["task"] if rows else "classification"
    metrics = HEADLINE[task] if metrics is None else metrics
    headings = [FIGURES[task][key].heading if key in FIGURES[task] else key for key in metrics]
    lines = ["| | seeds | " + " | ".join(headings) + " |", "|---|---|" + "---|" * len(metrics)]
    for row in rows:
        cells = [figure_text(row, key) for key in metrics]
        label = str(row["label"]).replace("|", "\\|")
        lines.append(f"| {label} | {len(row['seeds'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure_text(row: Mapping[str, Any], key: str) -> str:
    """One cell: mean ± sd, with the number of seeds behind it where that is not all of them."""
    known = FIGURES[row["task"]].get(key)
    unit = known.unit if known else "score"
    figure = row["figures"].get(key)
    if figure is None or figure["mean"] is None:
        return show(None, unit)
    text = show_spread(figure["mean"], figure["sd"], unit)
    return text if figure["n"] == len(row["seeds"]) else f"{text} (n = {figure['n']})"


def _one_task(records: Sequence[Mapping[str, Any]]) -> None:
    for record in records:
        if task_of(record) != task_of(records[0]):
            first, other = records[0]["run"]["id"], record["run"]["id"]
            raise ConfigError(
                f"runs {first} and {other} cannot be compared: expected one task, got {task_of(records[0])} and "
                f"{task_of(record)}"
            )


def _spread(samples: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, float | int | None]]:
    spread: dict[str, dict[str, float | int | None]] = {}
    for key in dict.fromkeys(key for sample in samples for key in sample):
        found = [sample.get(key) for sample in samples]
        values = [value for value in found if value is not None]
        spread[key] = {
            "mean": statistics.fmean(values) if values else None,
            "sd": statistics.stdev(values) if len(values) > 1 else None,
            "n": len(values),
        }
    return spread


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float | None]:
    """Dotted paths of all numbers (and undefined values) of a nested dict."""
    found: dict[str, float | None] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found.update(_numbers(value, f"{prefix}{key}."))
        elif not isinstance(value, str):
            found[f"{prefix}{key}"] = value
    return found
