"""The tables of a cell's fairness: forgetting over the rounds, subgroups of patients, and the gaps between them."""

from __future__ import annotations

from collections.abc import Iterator

from consilia.evaluation.rounds import FEWEST_PATIENTS
from consilia.evaluation.study_metrics import metric_of
from consilia.record.metrics import UNDEFINED, Metric
from consilia.record.study_result import MODELS, Forgetting, ForgettingName, Gap, Model, Subgroup
from consilia.report.format import plural
from consilia.report.panel import TextTable
from consilia.report.study_cells import CellTables, of_each_text, with_interval

PERCENT = Metric("percent", "", "percent", None, "")


def fairness_tables(cell: CellTables) -> Iterator[tuple[str, TextTable]]:
    """By name: forgetting, over all and by class; the gaps of all attributes, and a table for each attribute."""
    forgotten = [one for one in cell.result.forgetting if (one.data, one.option) == (cell.data, cell.option)]
    if forgotten:
        yield "forgetting", _forgetting(cell, forgotten)
        yield "forgetting-classes", _by_class(cell, [one for one in forgotten if one.label])
    groups: dict[str, list[Subgroup]] = {}
    for one in cell.result.subgroups:
        if (one.data, one.option) == (cell.data, cell.option):
            groups.setdefault(one.attribute, []).append(one)
    gaps = [one for one in cell.result.gaps if (one.data, one.option) == (cell.data, cell.option)]
    if gaps:
        yield "gaps", _gaps(cell, gaps)
    for attribute, own in groups.items():
        yield f"subgroups-{attribute}", _subgroups(cell, attribute, own)


def _percent(one: Forgetting | None) -> str:
    return UNDEFINED if one is None else with_interval(one.value, one.low, one.high, PERCENT).replace("-", "−")


def _forgetting(cell: CellTables, forgotten: list[Forgetting]) -> TextTable:
    """Backward transfer and negative flips, over all classes."""
    found = {(one.method, one.metric, one.model): one for one in forgotten if not one.label}
    columns: list[tuple[ForgettingName, Model]] = [("bwt", "global"), ("nfr", "global"), ("nfr", "personal")]
    rows = [
        [method, *(_percent(found.get((method, *column))) for column in columns)]
        for method in dict.fromkeys(one.method for one in forgotten)
    ]
    note = (
        "Means over rounds, folds and seeds. BwT: accuracy of the global model at a site's cases, less that after the "
        "site's last round of training; below 0 it forgets. NFR: cases that were right at the evaluation before and "
        "are wrong now; of the personal models, those of a round's participants."
    )
    columns_text = ["method", "BwT", "NFR, global model", "NFR, personal models"]
    return TextTable(f"{cell.title}: forgetting over the rounds", columns_text, rows, note)


def _by_class(cell: CellTables, forgotten: list[Forgetting]) -> TextTable:
    """Of the global model, class by class."""
    classes = list(dict.fromkeys(one.label for one in forgotten))
    found = {(one.method, one.metric, one.label): one for one in forgotten}
    names: dict[ForgettingName, str] = {"forgetting": "recall lost", "nfr": "NFR"}
    rows = [
        [method, words, *(_percent(found.get((method, name, label))) for label in classes)]
        for method in dict.fromkeys(one.method for one in forgotten)
        for name, words in names.items()
    ]
    note = (
        "Recall lost: that of the class after the round where it was highest, less that after the last round, on the "
        "cases of all sites; below 0 it was never higher than at the end. A model that at first gives all cases one "
        "class has its recall at 100 % then: read the classes together."
    )
    return TextTable(
        f"{cell.title}: forgetting of the global model, by class", ["method", "metric", *classes], rows, note
    )


def _gaps(cell: CellTables, gaps: list[Gap]) -> TextTable:
    """A column for each attribute: the gap, and who has the better value."""
    assert cell.cell is not None
    attributes = list(dict.fromkeys(one.attribute for one in gaps))
    by_row: dict[tuple[str, str, str], dict[str, str]] = {}
    for one in gaps:
        metric = metric_of(cell.cell.task, one.metric)
        assert metric is not None
        text = with_interval(one.value, one.low, one.high, metric)
        row = by_row.setdefault((one.method, one.model, metric.heading), {})
        who = f": {one.better} over {one.worse}" if one.value else ""
        row[one.attribute] = f"{text}{who}, at {plural(one.sites, 'site')}"
    rows = [[*row, *(found.get(name, UNDEFINED) for name in attributes)] for row, found in by_row.items()]
    note = (
        f"Mean of the differences at the sites with at least {FEWEST_PATIENTS} test patients of both groups (of AUROC "
        "and C-index with enough of each class), so that the hospitals themselves make no gap. Of several groups the "
        "pair that lies furthest apart, whose interval is too good. One that reaches below 0: it may be chance."
    )
    title = f"{cell.title}: gaps between subgroups, after the last round"
    return TextTable(title, ["method", "model", "metric", *attributes], rows, note)


def _subgroups(cell: CellTables, attribute: str, groups: list[Subgroup]) -> TextTable:
    """The first metric and accuracy of every subgroup."""
    assert cell.cell is not None
    shown = [metric for place, metric in enumerate(cell.metrics) if not place or metric.name == "accuracy"]
    rows = [
        [method, model, metric.heading, *(cell.score(method, "last", model, metric.name, "", g.name) for g in groups)]
        for method in cell.methods
        for model in MODELS
        for metric in shown
        if any((method, "last", model, metric.name, "", group.name) in cell.scores for group in groups)
    ]
    few = any(group.patients < FEWEST_PATIENTS for group in groups)
    note = (
        "Means over sites are of those with enough patients of the group; accuracy is of all its cases. Groups with "
        "fewer than five test patients are not shown."
    )
    star = f" * fewer than {FEWEST_PATIENTS} test patients: in no gap." if few else ""
    columns = ["method", "model", "metric", *(_heading(group, cell.cell.task) for group in groups)]
    return TextTable(f"{cell.title}: subgroups by {attribute}, after the last round", columns, rows, note + star)


def _heading(group: Subgroup, task: str) -> str:
    of_each = f", {of_each_text(group.of_each, task)}" if group.of_each else ""
    star = "*" * (group.patients < FEWEST_PATIENTS)
    return f"{group.group}{star} ({plural(group.patients, 'patient')}{of_each})"
