"""Studies in which several sites are left out in turn: one comparison for each of them, and the mean over the sites."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from consilia.evaluation.compare import Row, Spread, comparison_table
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
