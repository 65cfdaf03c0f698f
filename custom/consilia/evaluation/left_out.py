"""Studies in which several sites are left out in turn: one comparison for each of them, and the mean over the sites."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from consilia.evaluation.compare import Row, Spread, comparison_table
from consilia.evaluation.metrics import FINAL
from consilia.evaluation.summary import Part
from consilia.record.schema import Record


def rows_by_site(records: Sequence[tuple[str, Record]]) -> Mapping[str, Mapping[str, Row]]:
    """By label and left-out site the row of its seeds; ``records``: each with the site that was left out of it."""
    groups: dict[str, list[Record]] = {}
    for site, record in records:
        groups.setdefault(site, []).append(record)
    found: dict[str, dict[str, Row]] = {}
    for site, group in groups.items():
        for row in comparison_table(group):
            found.setdefault(row.label, {})[site] = row
    return found


def mean_over_sites(rows: Iterable[Row], part: Part, name: str) -> Spread:
    """The mean over left-out sites of each one's mean over seeds; sites without the value do not count."""
    means = [found.mean for row in rows if (found := row.spread(part, name)).mean is not None]
    return Spread(statistics.fmean(means), None, len(means)) if means else Spread()


def left_out_values(records: Sequence[tuple[str, Record]]) -> tuple[list[str], list[list[object]]]:
    """Heading and rows of a file with every metric of the last round: a row per label and left-out site, and the mean.

    Values are means over seeds, with their standard deviation where there are several seeds; in the rows called mean,
    means over the sites. What is undefined is blank.
    """
    metrics = FINAL.of(records[0][1].run.task)
    heading = ["method", "left_out", "seeds", *(f"{one.name}{end}" for one in metrics for end in ("", "_sd"))]
    rows: list[list[object]] = []
    for label, by_site in rows_by_site(records).items():
        for site, row in by_site.items():
            spreads = [row.spread("last", one.name) for one in metrics]
            rows.append([label, site, len(row.seeds), *_numbers(spreads)])
        means = [mean_over_sites(by_site.values(), "last", one.name) for one in metrics]
        rows.append([label, "mean", "", *_numbers(means)])
    return heading, rows


def _numbers(spreads: Iterable[Spread]) -> list[object]:
    return ["" if value is None else value for found in spreads for value in (found.mean, found.sd)]
