"""The tables of a study's claims and of the best method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from consilia.evaluation.study_metrics import METRICS
from consilia.record.metrics import UNDEFINED
from consilia.record.study_result import ALL, Contrast, StudyResult, cell_title
from consilia.report.panel import TextTable

SHOWN_UNITS = 12


def claim_tables(result: StudyResult) -> Iterator[tuple[str, TextTable]]:
    """Verdicts, differences by site or data set, and the best methods."""
    if result.contrasts:
        yield "claims", _claims(result.contrasts)
        yield "claims-by-unit", _units(result.contrasts)
    if result.best:
        yield "best", _best(result)


def signed(value: float | None, metric: str = "") -> str:
    """A difference with its sign; a p-value or the like is none."""
    if value is None:
        return UNDEFINED
    return f"{value:+.{2 if metric == 'hd95' else 3}f}".replace("-", "−")


def _claims(contrasts: Sequence[Contrast]) -> TextTable:
    rows = [
        [
            one.name,
            f"{one.method} against {one.against}",
            f"{one.metric}, {one.model}, {one.version}, "
            + cell_title(one.data, "" if one.option == ALL else one.option),
            difference(one),
            _p(one.p),
            _p(one.holm),
            one.verdict,
            UNDEFINED if one.detectable is None else f"{one.detectable:.3f}",
            f"{one.runs} of {one.planned}" if one.planned else str(one.runs),
            one.reason,
        ]
        for one in contrasts
    ]
    columns = ["claim", "contrast", "metric", "difference", "p", "p, Holm", "verdict", "detectable", "runs", "note"]
    note = (
        "Difference: above 0 the first method is the better one. Detectable: the smallest difference that these "
        "patients would show at 80 % power, 2.8 standard deviations of the paired difference over the draws."
    )
    return TextTable("Claims: paired differences with 95 % intervals, and verdicts", columns, rows, note)


def difference(one: Contrast) -> str:
    """``+0.021 [+0.004, +0.038]``."""
    value = signed(one.value, one.metric)
    if one.low is None or one.high is None:
        return value
    return f"{value} [{signed(one.low, one.metric)}, {signed(one.high, one.metric)}]"


def _p(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.3f}"


def _units(contrasts: Sequence[Contrast]) -> TextTable:
    rows = []
    for one in contrasts:
        shown = [f"{unit.name} {signed(unit.value, one.metric)}" for unit in one.units[:SHOWN_UNITS]]
        more = len(one.units) - SHOWN_UNITS
        rows.append(
            [
                one.name,
                ", ".join(shown) + (f", and {more} more" if more > 0 else "") or UNDEFINED,
                _p(one.wilcoxon) if one.wilcoxon is not None else "too few",
            ]
        )
    return TextTable(
        "Claims: differences by site, or by data set where there are several",
        ["claim", "differences", "Wilcoxon, p"],
        rows,
        "Wilcoxon's signed-rank test from six sites or data sets (means over options) on; fewer cannot reach 5 %.",
    )


def _best(result: StudyResult) -> TextTable:
    tasks = {(cell.data, cell.option): cell.task for cell in result.cells}
    rows = []
    for one in result.best:
        heading = next(m.heading for m in METRICS[tasks[one.data, one.option]] if m.name == one.metric)
        open_ = [pair for pair in one.pairs if pair.low <= 0]
        shown = [f"{pair.method} {signed(pair.value)} [{signed(pair.low)}, {signed(pair.high)}]" for pair in open_]
        rows.append(
            [
                cell_title(one.data, one.option),
                f"{heading}, {one.model}, {one.version}",
                one.top,
                "best" if one.best else "not decided",
                ", ".join(shown) or UNDEFINED,
                ", ".join(one.left_out) or UNDEFINED,
            ]
        )
    return TextTable(
        "The highest value, and whether it is the best",
        ["data", "metric", "highest", "verdict", "not below it", "not compared: runs are missing"],
        rows,
        "Best: the simultaneous 95 % intervals (max-T over all pairs) of the differences to all others lie above 0.",
    )
