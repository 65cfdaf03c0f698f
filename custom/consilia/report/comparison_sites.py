"""The comparison site by site: every method and baseline on each site's own test cases."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from consilia.core.task import Task
from consilia.evaluation.rounds import Split, split_metrics, too_few, value_of
from consilia.record.metrics import Unit, show_spread
from consilia.record.schema import Curves, Metrics, PromptSetting, Record, SegmentationMetrics, SurvivalMetrics
from consilia.report.plots_sites import SiteCurves
from consilia.report.run_page import last_models
from consilia.report.site_table import commonest_share, interval_text

Groups = Mapping[str, Sequence[Record]]
"""The seeds of each label."""


class SiteMetric(NamedTuple):
    """A table: its caption, whose models, the metric's name and unit; ``setting`` is the prompt of a segmentation."""

    caption: str
    kind: str
    name: str
    unit: Unit
    setting: PromptSetting | None = None
    brief: bool = True


TABLES: dict[Task, tuple[SiteMetric, ...]] = {
    "classification": (
        SiteMetric("AUROC of the global model", "global", "auroc", "score"),
        SiteMetric("Accuracy of the global model", "global", "accuracy", "percent"),
        SiteMetric("AUROC of the site's personal model", "personal", "auroc", "score"),
        SiteMetric("Accuracy of the site's personal model", "personal", "accuracy", "percent"),
        SiteMetric("Sensitivity of the global model", "global", "operating.sensitivity", "percent", brief=False),
        SiteMetric("Specificity of the global model", "global", "operating.specificity", "percent", brief=False),
        SiteMetric("Calibration error (ECE) of the global model", "global", "ece", "score", brief=False),
        SiteMetric(
            "Sensitivity of the site's personal model", "personal", "operating.sensitivity", "percent", brief=False
        ),
        SiteMetric(
            "Specificity of the site's personal model", "personal", "operating.specificity", "percent", brief=False
        ),
    ),
    "segmentation": (
        SiteMetric("Dice of the global model, true box", "global", "dice", "score", "box"),
        SiteMetric("Dice of the global model, jittered box", "global", "dice", "score", "jitter"),
        SiteMetric("Dice of the global model, whole image", "global", "dice", "score", "image"),
        SiteMetric("Dice of the site's personal model, true box", "personal", "dice", "score", "box"),
    ),
    "survival": (
        SiteMetric("C-index of the global model", "global", "c_index", "score"),
        SiteMetric("C-index of the site's personal model", "personal", "c_index", "score"),
    ),
}


@dataclass(frozen=True)
class SiteHead:
    """A column: the site, and on how many cases it tests."""

    site: str
    test_only: bool
    support: str
    few: bool


@dataclass(frozen=True)
class SiteCell:
    """A value over the seeds, and below it the interval of the first of them, or the number of missed cases."""

    value: str
    below: str = ""


@dataclass(frozen=True)
class SiteTable:
    """One metric of all labels at all sites."""

    metric: SiteMetric
    heads: Sequence[SiteHead]
    rows: Sequence[tuple[str, Sequence[SiteCell | None]]]
    guessed: Sequence[float | None]
    """By site, the accuracy of always giving the commoner class; only of an accuracy, and where it is known."""

    @property
    def has_intervals(self) -> bool:
        return any(one and "–" in (one.below or "") for _, cells in self.rows for one in cells)


def site_tables(groups: Groups, task: Task) -> list[SiteTable]:
    """The tables of ``TABLES`` in which any label has a value."""
    tables = []
    for metric in TABLES[task]:
        found = {label: [_tested(record, metric.kind) for record in group] for label, group in groups.items()}
        names = _order(groups, {site for seeds in found.values() for one in seeds for site in one})
        rows = [(label, [_cell(seeds, site, metric) for site in names]) for label, seeds in found.items()]
        rows = [(label, cells) for label, cells in rows if any(cells)]
        if rows:
            some = {site: one[site] for seeds in found.values() for one in seeds for site in one}
            tables.append(
                SiteTable(
                    metric,
                    [_head(groups, site, some[site]) for site in names],
                    rows,
                    [_guess(some[site]) if metric.name == "accuracy" else None for site in names],
                )
            )
    return tables


def site_roc(groups: Groups, styles: Mapping[str, Mapping[str, Any]]) -> list[SiteCurves]:
    """ROC curves of the labels' global models at every site, means over seeds at equal rates of false alarms."""
    found = {label: [_tested(record, "global") for record in group] for label, group in groups.items()}
    names = _order(groups, {site for seeds in found.values() for one in seeds for site in one})
    panels = []
    for site in names:
        lines = []
        some: Metrics | None = None
        for label, seeds in found.items():
            curves = [one[site].curves for one in seeds if isinstance(one.get(site), Metrics)]  # type: ignore[union-attr]
            rocs = [curve.roc for curve in curves if curve is not None and curve.roc]
            if rocs and label in styles:
                whole = tuple(statistics.fmean(points) for points in zip(*rocs, strict=True))
                template = next(curve for curve in curves if curve is not None)
                lines.append((label, styles[label], Curves(roc=whole, reliability=template.reliability)))
            some = some or next((m for one in seeds if isinstance(m := one.get(site), Metrics)), None)
        if lines and some is not None:
            panels.append(SiteCurves(f"{site}\n({_support(some, _positive(groups))})", lines))
    return panels


def by_site(groups: Groups, names: Sequence[str], kind: str, read: Callable[[Split], float | None]) -> dict[str, Any]:
    """label -> site -> a metric of the last version, mean over seeds; None where there is none."""
    result: dict[str, dict[str, float | None]] = {}
    for label, group in groups.items():
        seeds = [_tested(record, kind) for record in group]
        values = {site: [v for one in seeds if site in one and (v := read(one[site])) is not None] for site in names}
        result[label] = {site: statistics.fmean(found) if found else None for site, found in values.items()}
    return result


def few_sites(groups: Groups, names: Sequence[str]) -> bool:
    """Whether any site has too few test patients, or cases of a class."""
    every = [_tested(record, kind) for group in groups.values() for record in group for kind in ("global", "personal")]
    return any(too_few(one[site]) for one in every for site in names if site in one)


def _tested(record: Record, kind: str) -> dict[str, Split]:
    return split_metrics(last_models(record)[kind], sorted(record.sites))


def _order(groups: Groups, names: set[str]) -> list[str]:
    """Training sites first."""
    alone = {site for group in groups.values() for record in group for site, i in record.sites.items() if i.test_only}
    return sorted(names, key=lambda site: (site in alone, site))


def _head(groups: Groups, site: str, metrics: Split) -> SiteHead:
    alone = any(record.sites[site].test_only for group in groups.values() for record in group if site in record.sites)
    return SiteHead(site, alone, _support(metrics, _positive(groups)), too_few(metrics))


def _positive(groups: Groups) -> str:
    """The name of class 1."""
    names = next(record.class_names for group in groups.values() for record in group)
    return names[1] if len(names) == 2 else "positive"


def _support(metrics: Split, positive: str) -> str:
    if isinstance(metrics, SegmentationMetrics):
        cases = f"{metrics.count - metrics.empty} cases"
        return cases if metrics.patients is None else f"{metrics.patients} patients, {cases}"
    who = f"{metrics.count} cases" if metrics.patients is None else f"{metrics.patients} patients"
    positives = metrics.events if isinstance(metrics, SurvivalMetrics) else metrics.positives
    return who if positives is None else f"{who}, {positives} {positive}"


def _cell(seeds: Sequence[Mapping[str, Split]], site: str, metric: SiteMetric) -> SiteCell | None:
    there = [one[site] for one in seeds if site in one]
    values = [value for one in there if (value := value_of(one, metric.name, metric.setting)) is not None]
    if not values:
        return None
    below = _below(there[0], metric)
    if below and len(there) > 1:
        below = f"first seed: {below}"
    sd = statistics.stdev(values) if len(values) > 1 else None
    return SiteCell(show_spread(statistics.fmean(values), sd, metric.unit), below)


def _below(metrics: Split, metric: SiteMetric) -> str:
    if isinstance(metrics, SegmentationMetrics):
        missed = metrics.prompts[metric.setting].missed if metric.setting in metrics.prompts else 0
        span = interval_text(metrics, f"{metric.setting}.{metric.name}", metric.unit)
        return ", ".join(filter(None, [span, f"{missed} missed" if missed else ""]))
    return interval_text(metrics, metric.name, metric.unit) or ""


def _guess(metrics: Split) -> float | None:
    return commonest_share([metrics]) if isinstance(metrics, Metrics) else None
