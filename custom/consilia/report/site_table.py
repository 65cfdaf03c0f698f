"""A model site by site: on how many patients it was tried, its metrics with intervals, and what guessing gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consilia.evaluation.rounds import Split, patients_of, split_metrics, too_few, value_of
from consilia.record.metrics import Unit, show
from consilia.record.schema import Interval, Metrics, Record, SiteMetrics


@dataclass(frozen=True)
class Detail:
    """A column: the metric's name as in the record's intervals, heading and unit, and what it is."""

    name: str
    heading: str
    unit: Unit
    meaning: str


DETAILS = (
    Detail("auroc", "AUROC", "score", "area under the ROC curve"),
    Detail("operating.sensitivity", "Sensitivity", "percent", "share of {positive} that is found"),
    Detail("operating.specificity", "Specificity", "percent", "share of the others that is left alone"),
    Detail("operating.ppv", "PPV", "percent", "share of {positive} among the cases so called"),
    Detail("operating.npv", "NPV", "percent", "share of the others among the cases so called"),
    Detail("accuracy", "Accuracy", "percent", "share of correct cases where the likeliest class is the answer"),
    Detail("auprc", "AUPRC", "score", "area under the precision-recall curve; guessing has the share of positives"),
    Detail("brier", "Brier", "score", "mean squared error of the probabilities; lower is better"),
    Detail("ece", "ECE", "score", "how far probabilities are from what is observed, on average; lower is better"),
)


@dataclass(frozen=True)
class Cell:
    """A value as text, and its 95 % interval; None where the record has none."""

    value: str
    interval: str | None = None


@dataclass(frozen=True)
class DetailRow:
    """One site's test cases under one model."""

    site: str
    test_only: bool
    metrics: Metrics
    cells: Mapping[str, Cell]

    @property
    def patients(self) -> int:
        """Test patients; cases where the record does not say."""
        return patients_of(self.metrics)

    @property
    def few(self) -> bool:
        """Whether these are too few for a mean."""
        return too_few(self.metrics)

    @property
    def commonest(self) -> float | None:
        """See :func:`commonest_share`."""
        return commonest_share([self.metrics])

    @property
    def threshold(self) -> float | None:
        """Probability of class 1 above which a case counts as class 1."""
        return None if self.metrics.operating is None else self.metrics.operating.threshold


@dataclass(frozen=True)
class DetailTable:
    """The sites of one kind of model, and the columns that any of them has."""

    kind: str
    columns: Sequence[Detail]
    rows: Sequence[DetailRow]

    @property
    def has_intervals(self) -> bool:
        return any(cell.interval for row in self.rows for cell in row.cells.values())

    @property
    def has_cases(self) -> bool:
        """Whether there is more to say of the support than the number of patients."""
        return any(row.metrics.patients != row.metrics.count for row in self.rows)

    @property
    def has_thresholds(self) -> bool:
        return any(row.threshold is not None for row in self.rows)

    @property
    def has_few(self) -> bool:
        return any(row.few for row in self.rows)


def commonest_share(metrics: Sequence[Metrics]) -> float | None:
    """Share of correct cases if the answer were always the commoner of two classes, over all given splits together.

    None where the record has no count of the positives: more than two classes, or a record of an older version.
    """
    counts = [(one.count, one.positives) for one in metrics]
    cases = sum(count for count, _ in counts)
    positives = sum(found for _, found in counts if found is not None)
    if not cases or any(found is None for _, found in counts):
        return None
    return max(positives, cases - positives) / cases


def tested(by_site: Mapping[str, SiteMetrics], sites: Sequence[str]) -> dict[str, Metrics]:
    """Test metrics of a classification, by site."""
    found = split_metrics(by_site, sites)
    return {site: metrics for site, metrics in found.items() if isinstance(metrics, Metrics)}


def detail_tables(record: Record, by_kind: Mapping[str, Mapping[str, SiteMetrics]]) -> list[DetailTable]:
    """A table for the global model and one for the personal ones, of those that were tested."""
    order = sorted(record.sites, key=lambda site: (record.sites[site].test_only, site))
    tables = []
    for kind, by_site in by_kind.items():
        rows = [
            DetailRow(site, record.sites[site].test_only, metrics, _cells(metrics))
            for site, metrics in tested(by_site, order).items()
        ]
        columns = [column for column in DETAILS if any(column.name in row.cells for row in rows)]
        if rows:
            tables.append(DetailTable(kind, columns, rows))
    return tables


def cell(metrics: Metrics, name: str, unit: Unit) -> Cell | None:
    """A metric with its interval; None where it is undefined."""
    value = value_of(metrics, name)
    if value is None:
        return None
    return Cell(show(value, unit), interval_text(metrics, name, unit))


def interval_text(metrics: Split, name: str, unit: Unit) -> str | None:
    """A metric's interval as text; None where the record has none."""
    intervals: Mapping[str, Interval] = dict(metrics.intervals.items())
    found = intervals.get(name)
    return None if found is None else between(found.low, found.high, unit)


def between(low: float, high: float, unit: Unit) -> str:
    """An interval as text: ``61–84`` per cent, ``0.61–0.84``."""
    return f"{100 * low:.0f}–{100 * high:.0f}" if unit == "percent" else f"{low:.2f}–{high:.2f}"


def _cells(metrics: Metrics) -> dict[str, Cell]:
    found = {column.name: cell(metrics, column.name, column.unit) for column in DETAILS}
    return {name: one for name, one in found.items() if one is not None}
