"""What the report of a run shows of several tasks trained together, and of their knowledge in a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from consilia.evaluation.rounds import mean, split_metrics
from consilia.record.injection import Answerer
from consilia.record.metrics import Metric
from consilia.record.schema import Metrics, Record
from consilia.report import plots_injection

ANSWERERS: dict[Answerer, str] = {
    "injected": "injected language model",
    "extractor": "aggregated small model",
    "linear": "linear model",
    "majority": "majority answer",
}
COLUMNS: dict[str, tuple[Metric, ...]] = {
    "closed": (
        Metric("accuracy", "Accuracy", "percent", True, "share of cases whose most probable answer is right"),
        Metric("auroc", "AUROC", "score", True, "area under the ROC curve"),
        Metric("auprc", "AUPRC", "score", True, "area under the precision-recall curve"),
        Metric("f1", "F1", "score", True, "harmonic mean of precision and recall"),
    ),
    "open": (
        Metric("bleu1", "BLEU-1", "score", True, "share of the answer's words that are expected"),
        Metric("rouge1", "ROUGE-1", "score", True, "harmonic mean of the shares of words found either way"),
        Metric("meteor", "METEOR", "score", True, "words found, exactly or by stem, and how much in order"),
        Metric("exact", "Exact", "percent", True, "share of answers that are word for word the expected one"),
    ),
}
"""By kind of question, the figures that tables show."""

GROUPS = {"seen": "Seen tasks", "unseen": "Unseen tasks"}

Rows = list[dict[str, Any]]


def several_tasks(record: Record) -> bool:
    """Whether the run trained several tasks together."""
    return record.injection is not None or any(info.tasks for info in record.sites.values())


def injection_values(record: Record) -> dict[str, Any]:
    """What the template ``run_multitask.html`` needs besides the values of every run."""
    injection = record.injection
    return {
        "GROUPS": GROUPS,
        "COLUMNS": COLUMNS,
        "ANSWERERS": ANSWERERS,
        "tasks": record.class_names,
        "site_tasks": site_tasks(record),
        "site_figures": site_figures(record),
        "injection": None if injection is None else _injected(injection.model_dump(mode="json")),
    }


def answer_rows(test: Mapping[str, Mapping[str, Any]], tasks: Sequence[str], kind: str) -> Rows:
    """One row (``task``, ``who``, ``figures``) per task and answerer with figures of this ``kind``, closed or open."""
    return [
        {"task": task, "who": who, "figures": figures}
        for task in tasks
        for who in ANSWERERS
        if (figures := (test.get(who, {}).get(task) or {}).get(kind)) is not None
    ]


def answer_means(rows: Sequence[Mapping[str, Any]], kind: str) -> Rows:
    """One row per answerer: plain means of the figures over the tasks where they are defined, and of how many tasks."""
    found = []
    for who in ANSWERERS:
        own = [row["figures"] for row in rows if row["who"] == who]
        if own:
            figures = {column.name: mean(part.get(column.name) for part in own) for column in COLUMNS[kind]}
            found.append({"who": who, "tasks": len(own), "figures": figures})
    return found


def few_shot_rows(injection: Mapping[str, Any], kind: str) -> Rows:
    """One row per unseen task and number of labelled cases (``0``: as injected), in ascending order, ``all`` last."""
    rows = []
    for task in [*injection["unseen"], *injection["seen"]]:
        shots = injection["few_shot"].get(task, {})
        if not any(part[kind] for part in shots.values()):
            continue
        untrained = (injection["test"].get("injected", {}).get(task) or {}).get(kind)
        found = {"0": untrained} if untrained else {}
        found |= {shot: shots[shot][kind] for shot in sorted(shots, key=_ascending) if shots[shot][kind]}
        rows += [{"task": task, "shots": shot, "figures": figures} for shot, figures in found.items()]
    return rows


def site_tasks(record: Record) -> dict[str, dict[str, int]]:
    """Training cases by site and task, of the sites that name any."""
    return {site: info.tasks for site, info in sorted(record.sites.items()) if info.tasks}


def site_figures(record: Record) -> Rows:
    """One row per site and task: the last version's global model on the site's own test cases."""
    tested = split_metrics(record.final["last"].global_, sorted(record.sites)) if "last" in record.final else {}
    return [
        {"site": site, "task": task, **found.model_dump()}
        for site, metrics in tested.items()
        if isinstance(metrics, Metrics)
        for task, found in sorted(metrics.tasks.items())
    ]


def _injected(injection: Mapping[str, Any]) -> dict[str, Any]:
    """The injection as the template shows it; ``groups`` has rows and means by group of tasks and kind of question."""
    groups: dict[str, dict[str, Any]] = {}
    for group in GROUPS:
        rows = {kind: answer_rows(injection["test"], injection[group], kind) for kind in COLUMNS}
        groups[group] = {kind: {"rows": rows[kind], "means": answer_means(rows[kind], kind)} for kind in COLUMNS}
    order = [*injection["seen"], *injection["unseen"]]
    rounds = injection["rounds"]
    last = rounds[-1]["gates"] if rounds else {}
    gates = {task: last[task] for task in order if task in last}
    parameters = injection["parameters"]
    return {
        **{key: injection[key] for key in ("seen", "unseen", "experts", "parameters")},
        "groups": groups,
        "headline": {group: _by_answerer(groups[group]["closed"]["means"]) for group in GROUPS},
        "few_shot": {kind: few_shot_rows(injection, kind) for kind in COLUMNS},
        "trained": sum(count for part, count in parameters.items() if part != "language_model"),
        "steps": sum(part["steps"] for part in rounds),
        "seconds": sum(part["seconds"] for part in rounds),
        "routing": plots_injection.routing(gates, sum(task in gates for task in injection["seen"])),
        "learning": plots_injection.learning(rounds, order),
    }


def _by_answerer(means: Rows) -> dict[str, Any]:
    found = {row["who"]: row for row in means}
    return {who: found.get(who) for who in ANSWERERS}


def _ascending(shots: str) -> tuple[bool, int]:
    return (not shots.isdigit(), int(shots) if shots.isdigit() else 0)
