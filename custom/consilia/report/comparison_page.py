"""What the comparison of several runs shows, gathered from their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from consilia.core.task import Task
from consilia.evaluation.compare import Column, Row, any_defined, comparison_table, group_by_label
from consilia.evaluation.metrics import FINAL, OVER_ROUNDS, PROMPTS, VARIANTS, OverRoundsMetric
from consilia.evaluation.rounds import Split, mean, primary, split_metrics, test_only_sites, training_sites, value_of
from consilia.evaluation.summary import series
from consilia.evaluation.tested import tested_on
from consilia.record.metrics import Metric
from consilia.record.schema import PromptSetting, Record, SegmentationMetrics
from consilia.report import plots_compare, plots_rounds, plots_sites
from consilia.report.comparison_sites import Groups, by_site, few_sites, site_roc, site_tables
from consilia.report.format import BASELINES, flat
from consilia.report.over_rounds import learning
from consilia.report.plots_compare import Styles
from consilia.report.run_page import guessed, probability_of, several_tasks
from consilia.report.subject import data_set, sites_text, subject

LEVELS: dict[Task, dict[str, str]] = {
    "classification": {"global": "global_accuracy", "personal": "personal_accuracy"},
    "segmentation": {
        "global": "global_dice_box",
        "personal": "personal_dice_box",
        "global_image": "global_dice_image",
    },
    "survival": {"global": "global_c_index", "personal": "personal_c_index"},
}
"""By task, the metrics of the last version that the drawings show."""

KINDS = ("global", "personal")
CAPTIONS = {
    "global": "The global model after the last round",
    "decisions": "The global model after the last round: precision-recall, decisions at its threshold, calibration",
    "distance": "The global model after the last round: IoU, and HD95 in {unit}",
    "personal": "The personal models made from it at every training site, and the balance of both",
    "personal_decisions": "The personal models: precision-recall, decisions at their own thresholds, calibration",
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
    several = any(map(several_tasks, records))
    styles = plots_compare.styles_of([row.label for row in methods], [row.label for row in baselines])
    ordered = {row.label: groups[row.label] for row in [*methods, *baselines]}
    about = next((record for record in records if record.sites and not BASELINES.count(record.run.method)), records[0])
    marks = {} if several else _site_plots(ordered, names, styles, task)
    return {
        "records": records,
        "task": task,
        "tables": _tables(rows, task, _units(records), every=not several),
        "over_rounds": _over_rounds(task),
        "several": several,
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
        "subject": subject(about),
        "data_set": data_set(about),
        "training_text": sites_text(training_sites(about)),
        "tested_on": tested_on(about),
        "test_only_sites": test_only_sites(about),
        "warnings": _warnings(records),
        "site_tables": [] if several else site_tables(ordered, task),
        "baseline_labels": [row.label for row in baselines],
        "guessed": guessed(about) if task == "classification" and not several else {},
        "few_sites": few_sites(ordered, names),
        "probability_of": probability_of(about),
        "roc": plots_sites.roc(site_roc({k: v for k, v in ordered.items() if v[0].run.method != "majority"}, styles)),
        "learning": plots_rounds.compared(_learning(groups), styles) if task == "classification" else None,
        "curves": plots_compare.curves(runs, levels, task),
        "plane": plots_compare.plane(points, levels) if task == "classification" else None,
        "site_bars": marks.get("primary"),
        "site_auroc": marks.get("auroc"),
    }


def _warnings(records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """What runs warn of, and which of them."""
    found: dict[str, list[str]] = {}
    for record in records:
        for warning in record.warnings:
            found.setdefault(warning, []).append(record.run.name)
    return list(found.items())


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


def _site_plots(groups: Groups, names: Sequence[str], styles: Styles, task: Task) -> dict[str, str | None]:
    """Marks per site and label: accuracy and AUROC, or C-index, of both kinds of model, or Dice by prompt setting."""
    if task == "segmentation":
        panels = {
            f"Global model, {PROMPTS[setting]}": by_site(groups, names, "global", partial(_dice, setting=setting))
            for setting in ("box", "jitter", "image")
        }
        panels["Personal models, true box"] = by_site(groups, names, "personal", partial(_dice, setting="box"))
        return {"primary": plots_compare.sites(names, panels, styles, task, "Dice"), "auroc": None}
    kinds = {"Global model": "global", "Personal models": "personal"}
    primaries = {title: by_site(groups, names, kind, primary) for title, kind in kinds.items()}
    if task == "survival":
        return {"primary": plots_compare.sites(names, primaries, styles, task, "C-index on the site's test cases")}
    auroc = {title: by_site(groups, names, kind, partial(value_of, name="auroc")) for title, kind in kinds.items()}
    return {
        "primary": plots_compare.sites(names, primaries, styles, task, "accuracy on the site's test cases"),
        "auroc": plots_compare.sites(names, auroc, styles, None, "AUROC on the site's test cases"),
    }


def _dice(metrics: Split, setting: PromptSetting) -> float | None:
    return value_of(metrics, "dice", setting)


def _learning(groups: Groups) -> dict[str, dict[str, dict[int, float]]]:
    """label -> curve -> version -> mean over the seeds that have it."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for label, group in groups.items():
        seeds = [learning(record) for record in group]
        found[label] = {}
        for name in ("validation_loss", "test_loss", "test_auroc"):
            versions = sorted({version for one in seeds for version in one.get(name, {})})
            values = {v: mean(one.get(name, {}).get(v) for one in seeds) for v in versions}
            found[label][name] = {version: value for version, value in values.items() if value is not None}
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
