"""What a few labelled cases are worth at a site that was left out: tables, and what the plot shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from consilia.evaluation.rounds import enough_for_a_mean
from consilia.record.metrics import UNDEFINED, Metric
from consilia.record.study_unseen import NewSiteScore
from consilia.report.format import plural
from consilia.report.panel import TextTable
from consilia.report.study_cells import CellTables, of_each_text, with_interval

Panels = Mapping[str, Mapping[str, Mapping[str, NewSiteScore]]]
"""By site and method the scores by number of labelled cases."""


def new_site_metrics(cell: CellTables) -> list[Metric]:
    """The metrics that have a table and a plot: the task's first one, and accuracy."""
    return [metric for place, metric in enumerate(cell.metrics) if not place or metric.name == "accuracy"]


def new_site_tables(cell: CellTables) -> Iterator[tuple[str, TextTable]]:
    """A table for each of these metrics: a row per site and method, a column per number of labelled cases."""
    for metric in new_site_metrics(cell):
        if (panels := panels_of(cell, metric.name)) or cell.new_site:
            yield f"new-site-{metric.name}", _table(cell, metric, panels)


def panels_of(cell: CellTables, metric: str) -> Panels:
    """The scores of a metric; under the empty name of a site the means over sites."""
    found: dict[str, dict[str, dict[str, NewSiteScore]]] = {}
    for one in cell.new_site:
        if one.metric == metric:
            found.setdefault(one.site, {}).setdefault(one.method, {})[one.cases] = one
    mean = found.pop("", None)
    return found if mean is None else {**found, "": mean}


def numbers_of(cell: CellTables) -> list[str]:
    """The numbers of labelled cases, ascending; all of them last."""
    found = {one.cases for one in cell.new_site}
    return sorted(found, key=lambda text: (not text.isdigit(), int(text) if text.isdigit() else 0))


def _table(cell: CellTables, metric: Metric, panels: Panels) -> TextTable:
    numbers = numbers_of(cell)
    reasons: dict[tuple[str, str], dict[str, str]] = {}
    for one in cell.new_site:
        if one.reason:
            reasons.setdefault((one.site, one.method), {})[one.cases] = one.reason
    sites = list(dict.fromkeys(one.site for one in cell.new_site if one.site))
    rows = []
    for site in [*sites, *[""] * ("" in panels)]:
        for method in cell.methods:
            scores, lacking = panels.get(site, {}).get(method, {}), reasons.get((site, method), {})
            if scores or lacking:
                values = [_value(scores.get(number), metric) for number in numbers]
                rows.append([_site(cell, site), method, *values, _lacking(lacking, len(numbers))])
    if not any(row[-1] for row in rows):
        rows = [row[:-1] for row in rows]
    headings = [f"{number} labelled" for number in numbers]
    draws = max((one.draws for one in cell.new_site), default=0)
    caption = (
        "The fixed test is the test split that the site has by its own splits; labelled cases are drawn from its "
        f"others, {plural(draws, 'random draw')} of each number, the same for all methods and seeds, every class among "
        "them where it has a case and the number allows. Of none: the global model after the last round; else the "
        "personal model that the method makes of it at a site when the rounds are over. Inputs are prepared as in the "
        "run. Intervals cover test patients, draws and training seeds; they are of the mean over draws."
    )
    if any(row[0].partition(" (")[0].endswith("*") for row in rows):
        caption += " * too few test patients, or cases of a class, for a mean of AUROC or C-index."
    return TextTable(
        f"{cell.title}: a new site's labelled cases, {metric.heading} on its fixed test",
        ["new site", "method", *headings, "not made"][: len(rows[0]) if rows else None],
        rows,
        caption,
    )


def _value(score: NewSiteScore | None, metric: Metric) -> str:
    return UNDEFINED if score is None else with_interval(score.value, score.low, score.high, metric)


def _site(cell: CellTables, site: str) -> str:
    """A site with the patients of its fixed test, and how many cases there are to label."""
    if not site:
        return "mean of the sites"
    own = [one for one in cell.new_site if one.site == site and one.metric]
    if not own or cell.cell is None:
        return site
    kinds = f", {of_each_text(own[0].of_each, cell.cell.task)}" if own[0].of_each else ""
    every = next((f"; {one.labelled} to label" for one in own if one.cases == "all"), "")
    star = "*" * (not enough_for_a_mean(own[0].patients, own[0].of_each, cell.cell.task))
    return f"{site}{star} ({plural(own[0].patients, 'test patient')}{kinds}{every})"


def _lacking(reasons: Mapping[str, str], numbers: int) -> str:
    """Why there is no model of some numbers of cases, or of any."""
    if len(reasons) == numbers and len(set(reasons.values())) == 1:
        return next(iter(reasons.values()))
    return "; ".join(f"{number}: {reason}" for number, reason in reasons.items())
