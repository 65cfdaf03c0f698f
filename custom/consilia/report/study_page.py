"""``study.html``: one self-contained page of a study, made from its result alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consilia.evaluation.study_metrics import METRICS, metric_of
from consilia.record.metrics import Metric
from consilia.record.schema import Curves
from consilia.record.study_result import MODELS, Score, StudyResult
from consilia.report import plots_new_site, plots_sites, plots_study
from consilia.report.format import BASELINES
from consilia.report.html import page
from consilia.report.panel import TextTable
from consilia.report.plots_compare import STYLES, Styles, style_of, styles_of
from consilia.report.study_cells import CellTables
from consilia.report.study_claims import claim_tables
from consilia.report.study_new_site import new_site_metrics, numbers_of, panels_of
from consilia.report.study_tables import cell_tables, cells_in, costs, leak_table, missing_runs

FOLDED = ("more-", "means-best", "sites-", "subgroups", "forgetting-")
"""Tables that the page shows when they are opened; names begin so."""


@dataclass(frozen=True)
class Drawing:
    """A plot of the page."""

    address: str | None
    alt: str
    caption: str


@dataclass(frozen=True)
class Section:
    """What the page shows of one cell."""

    title: str
    tables: Sequence[TextTable]
    folded: Sequence[TextTable]
    drawings: Sequence[Drawing]


def study_page(result: StudyResult) -> str:
    """The page as HTML; equal results give equal text but for the table of costs."""
    styles = _styles(result)
    claims = dict(claim_tables(result))
    return page(
        "study.html",
        title=result.title or ", ".join(dict.fromkeys(data for data, _ in cells_in(result))) or "Study",
        result=result,
        sections=[_section(result, data, option, styles) for data, option in cells_in(result)],
        claims=[table for name, table in claims.items() if name != "best"],
        verdicts=plots_study.verdicts(result.contrasts),
        counts=_verdict_counts(result),
        best=claims.get("best"),
        leaks=leak_table(result),
        missing=missing_runs(result),
        costs=costs(result),
    )


def _styles(result: StudyResult) -> Styles:
    """A method looks the same throughout the page."""
    found = [*(run.method for run in result.runs), *(point.method for point in result.curves)]
    labels = list(dict.fromkeys([*found, *(method for cell in result.cells for method in cell.methods)]))
    baselines = [label for label in labels if label.replace("-", "_") in BASELINES]
    return styles_of([label for label in labels if label not in baselines], baselines)


def _verdict_counts(result: StudyResult) -> dict[str, int]:
    """How many claims have each verdict."""
    found = dict.fromkeys(("confirmed", "refuted", "equivalent", "not decided"), 0)
    for one in result.contrasts:
        found[one.verdict] += 1
    return {verdict: count for verdict, count in found.items() if count}


def _section(result: StudyResult, data: str, option: str, styles: Styles) -> Section:
    cell = CellTables(result, data, option)
    tables = list(cell_tables(cell))
    folded = [table for name, table in tables if name.startswith(FOLDED)]
    drawings = [*_planes(cell, styles), *_curves(result, cell, styles), *_sites(cell, styles), *_reliability(cell)]
    drawings = [*_gained(cell, styles), *drawings]
    return Section(
        cell.title,
        [table for name, table in tables if not name.startswith(FOLDED)],
        folded,
        [drawing for drawing in drawings if drawing.address],
    )


def _shown(cell: CellTables) -> list[Metric]:
    """The metrics that are drawn: the task's first one, and accuracy."""
    return [metric for place, metric in enumerate(cell.metrics) if not place or metric.name == "accuracy"]


def _planes(cell: CellTables, styles: Styles) -> list[Drawing]:
    found = []
    for metric in _shown(cell):
        points = {}
        for method in cell.methods:
            both = [cell.scores.get((method, "last", model, metric.name, "", "")) for model in MODELS]
            if both[0] is not None and both[1] is not None:
                points[method] = (both[0], both[1])
        address = plots_study.plane(
            points,
            styles,
            metric.heading,
            percent=metric.unit == "percent",
            lower=metric.higher_is_better is False,
        )
        caption = (
            "Each mark is a method after the last round with its 95 % intervals. To the right is more general, upwards "
            "is more personal. Ringed and joined: the Pareto front, methods that no other exceeds in both; where "
            "intervals overlap it may be luck. A method without a global model or without personal ones is not drawn."
        )
        found.append(Drawing(address, f"{cell.title}: generalisation and personalisation, {metric.heading}", caption))
    return found


def _curves(result: StudyResult, cell: CellTables, styles: Styles) -> list[Drawing]:
    own = [point for point in result.curves if (point.data, point.option) == (cell.data, cell.option)]
    found = []
    for model, name in dict.fromkeys((point.model, point.metric) for point in own):
        metric = _metric(cell, name)
        heading = metric.heading if metric else name.replace("_", " ")
        address = plots_study.curves(
            [point for point in own if (point.model, point.metric) == (model, name)],
            styles,
            heading,
            percent=metric is not None and metric.unit == "percent",
        )
        caption = (
            f"{model.capitalize()} model{'s' * (model == 'personal')}: mean over folds and seeds, weighted over sites; "
            "the band is one standard deviation of the runs either way."
        )
        found.append(Drawing(address, f"{cell.title}: {heading} of the {model} model by round and by bytes", caption))
    return found


def _metric(cell: CellTables, name: str) -> Metric | None:
    tasks = [cell.cell.task] if cell.cell else list(METRICS)
    return next((found for task in tasks if (found := metric_of(task, name))), None)


def _sites(cell: CellTables, styles: Styles) -> list[Drawing]:
    if cell.cell is None:
        return []
    names = [f"{site.site}{'*' * (not site.averaged)}" for site in cell.cell.sites]
    found = []
    for metric in _shown(cell):
        panels: dict[str, Mapping[str, Mapping[str, Score]]] = {}
        for model in MODELS:
            title = "Global model" if model == "global" else "Personal models"
            panels[title] = {
                method: scores for method in cell.methods if (scores := _at_sites(cell, method, model, metric))
            }
        address = plots_study.by_site(names, panels, styles, metric.heading, percent=metric.unit == "percent")
        caption = (
            "After the last round, with 95 % intervals. Look for sites that one method serves and another leaves "
            "behind. Methods are compared on the same draws: a difference may be certain where two intervals overlap. "
            "* too few test patients, or cases of a class, for a mean of AUROC or C-index."
        )
        found.append(Drawing(address, f"{cell.title}: {metric.heading} by site", caption))
    return found


def _at_sites(cell: CellTables, method: str, model: str, metric: Metric) -> dict[str, Any]:
    """The scores of a method by the site's name in the plot."""
    assert cell.cell is not None
    return {
        f"{site.site}{'*' * (not site.averaged)}": score
        for site in cell.cell.sites
        if (score := cell.scores.get((method, "last", model, metric.name, site.site, "")))
    }


def _reliability(cell: CellTables) -> list[Drawing]:
    """A panel for each method; where sites were left out a line for each of them, which other models have tested."""
    own = [one for one in cell.result.calibration if (one.data, one.option) == (cell.data, cell.option)]
    if cell.cell is None or not own:
        return []
    lines: dict[str, list[tuple[str, Mapping[str, Any], Curves]]] = {}
    places = {site.site: place for place, site in enumerate(cell.cell.sites)}
    for one in own:
        curves = Curves(roc=(), reliability=one.bins)
        if cell.left_out and one.site and one.model == "global" and places[one.site] < len(STYLES):
            lines.setdefault(one.method, []).append((one.site, style_of(places[one.site]), curves))
        elif not cell.left_out and not one.site:
            name = "global model" if one.model == "global" else "personal models"
            lines.setdefault(one.method, []).append((name, plots_sites.STYLES[one.model], curves))
    of = "the positive class" if len(cell.cell.of_each) == 2 else "the likeliest class"
    panels = [plots_sites.SiteCurves(method, found) for method, found in lines.items()]
    caption = (
        "After the last round: what is observed among test cases of like probability; on the diagonal a probability "
        "can be taken at its word. The larger a mark, the more predictions."
    )
    address = plots_sites.reliability(panels, of)
    return [Drawing(address, f"{cell.title}: reliability of the probabilities", caption)]


def _gained(cell: CellTables, styles: Styles) -> list[Drawing]:
    """What labelled cases are worth at a site that was left out."""
    found = []
    for metric in new_site_metrics(cell):
        panels = {site or "mean of the sites": methods for site, methods in panels_of(cell, metric.name).items()}
        address = plots_new_site.gained(
            panels, numbers_of(cell), styles, metric.heading, percent=metric.unit == "percent"
        )
        caption = (
            "On the fixed test of a site that was left out, with 95 % intervals over test patients, draws of labelled "
            "cases and seeds. Of no labelled case it is the global model, of some the personal one made of it."
        )
        found.append(Drawing(address, f"{cell.title}: labelled cases of a new site, {metric.heading}", caption))
    return found
