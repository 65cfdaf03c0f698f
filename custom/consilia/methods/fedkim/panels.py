"""What reports show of knowledge in a language model: what it answers, and how it learnt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from consilia.evaluation.rounds import mean
from consilia.methods.fedkim import plots as drawings
from consilia.methods.fedkim.section import Answerer, Injection, injection_of
from consilia.record.metrics import Metric, show
from consilia.record.schema import Record
from consilia.report.html import fill
from consilia.report.panel import Panel, TextTable

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
"""By kind of question, the metrics that tables show."""

OTHERS: tuple[Answerer, ...] = ("extractor", "linear", "majority")
"""What the language model must beat."""

GROUPS = {"seen": "Seen tasks", "unseen": "Unseen tasks"}

FOLDER = Path(__file__).parent
Rows = list[dict[str, Any]]


def run_panels(record: Record) -> list[Panel]:
    """What a run's language model answers, and how it learnt."""
    injection = injection_of(record)
    if injection is None:
        return []
    shown = _injected(injection.model_dump(mode="json"))
    values = {"GROUPS": GROUPS, "COLUMNS": COLUMNS, "ANSWERERS": ANSWERERS, "injection": shown}
    return [Panel(fill(FOLDER, "injection.html", **values), fill(FOLDER, "injection_lead.html", **values), first=True)]


def comparison_panels(records: Sequence[Record]) -> list[Panel]:
    """What the language models of several runs answer."""
    from consilia.methods.fedkim.comparison import answer_tables

    tables = answer_tables(records)
    return [Panel(fill(FOLDER, "comparison_answers.html", answers=tables), first=True)] if tables else []


def text_tables(records: Sequence[Record]) -> list[TextTable]:
    """AUROC on the server's test cases by task: of the injected models, and of what each must beat."""
    found = {record.run.name: injection for record in records if (injection := injection_of(record)) is not None}
    if not found:
        return []
    first = next(iter(found.values()))
    rows = [
        [
            f"{task}{'*' if task in first.seen else ''}",
            *(_auroc(injection, "injected", task) for injection in found.values()),
            *(_auroc(first, who, task) for who in OTHERS),
        ]
        for task in [*first.seen, *first.unseen]
    ]
    return [
        TextTable(
            "Test AUROC by task; the injected language model of each run, then the baselines of the first",
            ["task", *found, "small model", "linear", "majority"],
            rows,
            "* trained by the sites; the others nobody has trained. Intervals and open answers are in report.html.",
        )
    ]


def scalars(record: Record) -> Iterator[tuple[str, int, float]]:
    """Tags ``injection/loss/<task>`` and ``injection/validation_<metric>/<task>``, accuracy and auroc."""
    injection = injection_of(record)
    for part in injection.rounds if injection is not None else ():
        for task, loss in sorted(part.loss.items()):
            yield f"injection/loss/{task}", part.round, loss
        for task, metrics in sorted(part.validation.items()):
            for name, value in (("accuracy", metrics.accuracy), ("auroc", metrics.auroc)):
                if value is not None:
                    yield f"injection/validation_{name}/{task}", part.round, value


def answer_rows(test: Mapping[str, Mapping[str, Any]], tasks: Sequence[str], kind: str) -> Rows:
    """One row (``task``, ``who``, ``metrics``) per task and answerer with metrics of this ``kind``, closed or open."""
    return [
        {"task": task, "who": who, "metrics": metrics}
        for task in tasks
        for who in ANSWERERS
        if (metrics := (test.get(who, {}).get(task) or {}).get(kind)) is not None
    ]


def answer_means(rows: Sequence[Mapping[str, Any]], kind: str) -> Rows:
    """One row per answerer: plain means of the metrics over the tasks where they are defined, and of how many tasks."""
    found = []
    for who in ANSWERERS:
        own = [row["metrics"] for row in rows if row["who"] == who]
        if own:
            metrics = {column.name: mean(part.get(column.name) for part in own) for column in COLUMNS[kind]}
            found.append({"who": who, "tasks": len(own), "metrics": metrics})
    return found


def few_shot_rows(injection: Mapping[str, Any], kind: str) -> Rows:
    """One row per unseen task and number of labelled cases (``0``: as injected), in ascending order, ``all`` last."""
    rows = []
    for task in [*injection["unseen"], *injection["seen"]]:
        by_count = injection["few_shot"].get(task, {})
        if not any(part[kind] for part in by_count.values()):
            continue
        untrained = (injection["test"].get("injected", {}).get(task) or {}).get(kind)
        found = {"0": untrained} if untrained else {}
        found |= {shot: by_count[shot][kind] for shot in sorted(by_count, key=_ascending) if by_count[shot][kind]}
        rows += [{"task": task, "cases": shot, "metrics": metrics} for shot, metrics in found.items()]
    return rows


def _auroc(injection: Injection, who: Answerer, task: str) -> str:
    found = injection.test.get(who, {}).get(task)
    value = None if found is None or found.closed is None else found.closed.auroc
    return show(value, "score")


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
        "routing": drawings.routing(gates, sum(task in gates for task in injection["seen"])),
        "learning": drawings.learning(rounds, order),
    }


def _by_answerer(means: Rows) -> dict[str, Any]:
    found = {row["who"]: row for row in means}
    return {who: found.get(who) for who in ANSWERERS}


def _ascending(cases: str) -> tuple[bool, int]:
    return (not cases.isdigit(), int(cases) if cases.isdigit() else 0)
