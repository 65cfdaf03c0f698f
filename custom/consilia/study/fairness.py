"""Metrics of subgroups of patients, and the gaps between them; of the last version."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from consilia.evaluation.bootstrap import Array
from consilia.evaluation.rounds import FEWEST_PATIENTS
from consilia.evaluation.study_metrics import METRICS, OVERALL, PLAIN_MEANS
from consilia.record.study_result import MODELS, Gap, Model, Score, Subgroup
from consilia.study.cells import CellData, support_of
from consilia.study.subgroups import PREFIX, UNKNOWN

FEWEST_SHOWN = 5
"""Test patients of a subgroup below which nothing is said of it: its accuracy would be a patient's own result."""


@dataclasses.dataclass(frozen=True)
class Members:
    """The patients of one subgroup, with their predictions."""

    group: Subgroup
    data: CellData


def members_of(cell: CellData) -> Iterator[list[Members]]:
    """The subgroups of a cell that are shown, column by column; of each one its sites have its own support."""
    for column in cell.frame:
        if str(column).startswith(PREFIX):
            name = str(column).removeprefix(PREFIX)
            groups = sorted(cell.frame[column].unique(), key=_order)
            members = [_members(cell, name, group) for group in groups]
            yield [one for one in members if one.group.patients >= FEWEST_SHOWN]


def _order(group: str) -> tuple[bool, bool, float, str]:
    """Ranges by their numbers, others by name, the unknown last."""
    # A dash after a letter is no sign: stage-2.
    number = re.search(r"((?<!\w)-)?\d+(\.\d+)?", group)
    return group == UNKNOWN, not group.startswith("below"), float(number[0]) if number else 0.0, group


def _members(cell: CellData, attribute: str, group: str) -> Members:
    rows = cell.frame[cell.frame[PREFIX + attribute] == group]
    whole = support_of("", rows, cell.cell.task)
    sites = tuple(support_of(str(site), own, cell.cell.task) for site, own in rows.groupby("site"))
    data = dataclasses.replace(cell, cell=cell.cell.model_copy(update={"sites": sites}), frame=rows, found={})
    counted = {"patients": whole.patients, "cases": whole.cases, "of_each": whole.of_each}
    found = Subgroup(data=cell.cell.data, option=cell.cell.option, attribute=attribute, group=group, **counted)
    return Members(found, data)


def scores_of(members: Members) -> Iterator[Score]:
    """Every metric of every method's global and personal model."""
    cell, group = members.data, members.group
    for method in cell.cell.methods:
        for model in MODELS:
            runs = len(cell.runs_of(method, "last", model))
            found = cell.values(method, "last", model) if runs else {}
            for name in cell.cell.metrics:
                if (name, OVERALL) in found:
                    yield cell.score(
                        found[name, OVERALL], method, "last", model, name,
                        subgroup=group.name, runs=runs, units=group.patients,
                    )  # fmt: skip


def gaps_of(groups: Sequence[Members]) -> Iterator[Gap]:
    """The largest gap between two subgroups of one column, of the task's first metric and of accuracy.

    It is the mean over the sites, with enough patients of both, of the difference there: that one group's hospital is
    another than the other's makes no gap. Groups with fewer than 20 patients, or unknown, have none.
    """
    enough = [one for one in groups if one.group.patients >= FEWEST_PATIENTS and one.group.group != UNKNOWN]
    if len(enough) < 2:
        return
    cell = enough[0].data
    first = METRICS[cell.cell.task][0].name
    for method in cell.cell.methods:
        for model in MODELS:
            for metric in dict.fromkeys([first, *(["accuracy"] if cell.cell.task == "classification" else [])]):
                pairs = [
                    (one, other, *_difference(one, other, method, model, metric))
                    for one, other in combinations(enough, 2)
                ]
                found = [pair for pair in pairs if pair[3] and not np.isnan(pair[2][0])]
                if not found:
                    continue
                one, other, values, sites = max(found, key=lambda pair: abs(pair[2][0]))
                if values[0] < 0:
                    one, other, values = other, one, -values
                low, high = cell.draws.interval(values)
                yield Gap(
                    data=cell.cell.data,
                    option=cell.cell.option,
                    method=method,
                    model=model,
                    metric=metric,
                    attribute=one.group.attribute,
                    better=one.group.group,
                    worse=other.group.group,
                    value=float(values[0]),
                    low=low,
                    high=high,
                    se=cell.draws.standard_error(values),
                    sites=sites,
                )


def _difference(one: Members, other: Members, method: str, model: Model, metric: str) -> tuple[Array, int]:
    """By draw, and the number of sites; empty without any."""
    sites = [_sites(members, metric) for members in (one, other)]
    found = [members.data.values(method, "last", model) for members in (one, other)]
    shared = [site for site in sorted(sites[0] & sites[1]) if all((metric, site) in values for values in found)]
    if not shared:
        return np.zeros(0), 0
    return np.mean([found[0][metric, site] - found[1][metric, site] for site in shared], axis=0), len(shared)


def _sites(members: Members, metric: str) -> set[str]:
    """Where a subgroup has enough patients for the metric."""
    pooled = metric in PLAIN_MEANS  # of cases, which need not be of every class
    sites = members.data.cell.sites
    return {one.site for one in sites if (one.patients >= FEWEST_PATIENTS if pooled else one.averaged)}
