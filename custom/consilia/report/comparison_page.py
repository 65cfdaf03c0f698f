"""What the comparison of several runs shows, gathered from their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from consilia.core.task import Task
from consilia.evaluation.compare import Column, Row, any_defined, comparison_table, group_by_label
from consilia.evaluation.metrics import FINAL, OVER_ROUNDS, VARIANTS, OverRoundsMetric
from consilia.evaluation.rounds import mean, primary, split_metrics
from consilia.evaluation.summary import series
from consilia.record.metrics import Metric
from consilia.record.schema import Record, SegmentationMetrics
from consilia.report import plots_compare
from consilia.report.format import BASELINES, flat
from consilia.report.run_page import last_models, several_tasks

LEVELS: dict[Task, dict[str, str]] = {
    "classification": {"global": "global_accuracy", "personal": "personal_accuracy"},
    "segmentation": {
        "global": "global_dice_box",
        "personal": "personal_dice_box",
        "global_image": "global_dice_image",
    },
}
"""By task, the metrics of the last version that the drawings show."""

KINDS = ("global", "personal")
CAPTIONS = {
    "global": "The global model after the last round",
    "distance": "The global model after the last round: IoU, and HD95 in {unit}",
    "personal": "The personal models made from it at every training site, and the balance of both",
}
"""By table of a metric, what stands above it."""
BEST = "The version that was best on validation cases"
OVER_ROUNDS_CAPTIONS = {
    "means": "Averaged over rounds, then over seeds; personal metrics are over each round's participants",
    "forgetting": "Forgetting: flip rates lower is better; backward transfer and consistency higher is better",
    "convergence": "Convergence: {meaning}",
}


@dataclass(frozen=True)
class Table:
    """A table of the comparison: a row per method, a column per metric."""

    caption: str
    part: Literal["last", "best", "over_rounds"]
    columns: Sequence[Column]


def comparison_page(records: Sequence[Record]) -> dict[str, Any]:
    """The values of the template ``comparison.html``; the drawings are of the last version."""
    rows, task = comparison_table(records), records[0].run.task
    groups = group_by_label(records)
    methods = [row for row in rows if row.method not in BASELINES]
    baselines = [row for row in rows if row.method in BASELINES]
    levels = {row.label: {kind: _last(row, kind)[0] for kind in LEVELS[task]} for row in baselines}
    runs = {row.label: [series(record) for record in groups[row.label]] for row in methods}
    points = {row.label: {kind: _last(row, kind) for kind in KINDS} for row in methods}
    names = sorted({site for record in records for site in record.sites})
    by_site = {row.label: _by_site(groups[row.label], names) for row in methods or baselines}
    return {
        "records": records,
        "task": task,
        "tables": _tables(rows, task, _units(records), every=not any(map(several_tasks, records))),
        "over_rounds": _over_rounds(task),
        "several": any(map(several_tasks, records)),
        "variants": _variants(rows, task),
        "exchange": any_defined(rows, "costs", "floor"),
        "rows": rows,
        "methods": methods,
        "baselines": baselines,
        "sites": sorted(names),
        "same_data": _same_data(records),
        "fingerprints": next((found for record in records if (found := _fingerprints(record))), {}),
        "versions": _versions(records),
        "differences": _differences(groups),
        "curves": plots_compare.curves(runs, levels, task),
        "plane": plots_compare.plane(points, levels) if task == "classification" else None,
        "site_bars": plots_compare.sites(names, by_site, task),
    }


def _last(row: Row, kind: str) -> tuple[float | None, float | None]:
    """Mean and sd over seeds of one of the last version's ``LEVELS``."""
    found = row.spread("last", LEVELS[row.task][kind])
    return found.mean, found.sd


def _units(records: Sequence[Record]) -> str:
    """The unit of HD95 of the final models of segmentations; both if both occur."""
    by_kind = [
        by_site for record in records for one in record.final.values() for by_site in (one.global_, one.personal)
    ]
    tested = [metrics for by_site in by_kind for metrics in split_metrics(by_site, by_site).values()]
    return " or ".join(sorted({metrics.unit for metrics in tested if isinstance(metrics, SegmentationMetrics)}))


def _tables(rows: Sequence[Row], task: Task, unit: str, *, every: bool) -> list[Table]:
    """The tables of the chosen versions.

    Those without any value are left out of a segmentation, and of runs of several tasks (not ``every``).
    """
    metrics = FINAL.of(task)
    tables = [
        Table(caption.format(unit=unit), "last", [("last", metric) for metric in metrics if metric.table == table])
        for table, caption in CAPTIONS.items()
    ]
    tables.append(Table(BEST, "best", [("best", metric) for metric in metrics if metric.brief]))
    return [
        table
        for table in tables
        if table.columns
        and (
            (every and task == "classification")
            or any(any_defined(rows, part, metric.name) for part, metric in table.columns)
        )
    ]


def _over_rounds(task: Task) -> list[Table]:
    """The tables of the metrics over the rounds."""
    found = []
    for name, caption in OVER_ROUNDS_CAPTIONS.items():
        metrics: list[OverRoundsMetric] = [metric for metric in OVER_ROUNDS.of(task) if metric.table == name]
        if metrics:
            columns: list[Column] = [("over_rounds", metric) for metric in metrics]
            found.append(Table(caption.format(meaning=metrics[-1].meaning), "over_rounds", columns))
    return found


def _variants(rows: Sequence[Row], task: Task) -> dict[str, list[Metric]]:
    """By variant of the global model, the metrics that any row has of it."""
    last = [summary.last for row in rows for summary in row.summaries if summary.last is not None]
    found: dict[str, list[Metric]] = {}
    for name in dict.fromkeys(name for chosen in last for name in chosen.variants):
        found[name] = [metric for metric in VARIANTS.of(task) if any_defined(rows, ("variant", name), metric.name)]
    return {name: metrics for name, metrics in found.items() if metrics}


def _by_site(group: Sequence[Record], names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """kind -> site -> accuracy or Dice of the last version, averaged over seeds."""
    found: dict[str, dict[str, float | None]] = {}
    for kind in KINDS:
        tested = [split_metrics(last_models(record)[kind], names) for record in group]
        found[kind] = {site: mean(primary(one[site]) for one in tested if site in one) for site in names}
    return found


def _same_data(records: Sequence[Record]) -> bool:
    """Whether all runs saw the same sites' data, and the same data of the server; a run without sites saw none."""
    sites = {tuple(sorted(found.items())) for record in records if (found := _fingerprints(record))}
    servers = {record.server_fingerprint for record in records}
    return len(sites) <= 1 and len(servers) == 1


def _fingerprints(record: Record) -> dict[str, str]:
    return {site: info.fingerprint for site, info in record.sites.items()}


def _versions(records: Sequence[Record]) -> dict[str, str]:
    """Library -> every version used, so that a mixture shows."""
    found: dict[str, set[str]] = {}
    for record in records:
        for library, version in record.versions.items():
            found.setdefault(library, set()).add(version or "not installed")
    return {library: ", ".join(sorted(versions)) for library, versions in sorted(found.items())}


def _differences(groups: Mapping[str, Sequence[Record]]) -> dict[str, dict[str, str]]:
    """Config key -> label -> value(s), for the keys in which the labels differ; the seed is no difference."""
    settings: dict[str, dict[str, str]] = {}
    for label, group in groups.items():
        for record in group:
            for key, value in flat(record.config).items():
                values = settings.setdefault(key, {})
                if key.rpartition(".")[2] != "seed" and value not in values.get(label, "").split(" / "):
                    values[label] = f"{values[label]} / {value}" if label in values else value
    return {
        key: values
        for key, values in sorted(settings.items())
        if values and len({values.get(label) for label in groups}) > 1
    }
