"""What becomes of a study's claims: paired differences, intervals, verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from consilia.evaluation.bootstrap import Array
from consilia.evaluation.multiple import POWER, bootstrap_p, holm, max_t
from consilia.evaluation.study_metrics import METRICS, OVERALL, PLAIN_MEANS, metric_of
from consilia.record.study_result import (
    ALL,
    MODELS,
    VERSIONS,
    Best,
    Contrast,
    Model,
    Ratio,
    TopPair,
    UnitDifference,
    Verdict,
    cell_title,
)
from consilia.study.cells import CellData
from consilia.study.claims import Claim

FEWEST_UNITS = 6
"""Sites or data sets below which Wilcoxon's test cannot reach 5 %; there the differences are listed."""

LEAST_P = 0.05


@dataclass(frozen=True)
class Difference:
    """A claim's difference in one cell: the draws (R,), and the differences by site."""

    cell: CellData
    draws: Array
    low: float | None
    high: float | None
    se: float | None
    sites: dict[str, float]
    runs: int


@dataclass
class Evidence:
    """What the cells say of a claim."""

    claim: Claim
    differences: list[Difference] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    planned: int = 0


def concerns(claim: Claim, data: str, option: str) -> bool:
    """Whether a claim is about a cell."""
    return claim.data in (ALL, data) and claim.option in (ALL, option)


def add_evidence(evidence: Evidence, cell: CellData) -> None:
    """Compute a claim's difference in one cell it is about, or say why there is none."""
    claim = evidence.claim
    found = _difference(claim, cell)
    if isinstance(found, str):
        evidence.problems.append(f"{cell_title(cell.cell.data, cell.cell.option)}: {found}")
    else:
        evidence.differences.append(found)


def _difference(claim: Claim, cell: CellData) -> Difference | str:
    metric = metric_of(cell.cell.task, claim.metric)
    if metric is None:
        return f"{claim.metric} is no metric of {cell.cell.task}"
    runs = [cell.runs_of(method, claim.version, claim.model) for method in (claim.method, claim.against)]
    for method, own in zip((claim.method, claim.against), runs, strict=True):
        if not own:
            return f"no predictions of {method}, {claim.model} model"
    common = runs[0] & runs[1]
    if not common:
        return "the two methods have no run in common"
    if not _same_cases(claim, cell):
        return "the two methods were tested on different cases"
    sign = -1.0 if metric.higher_is_better is False else 1.0
    ours, theirs = (cell.values(name, claim.version, claim.model, common) for name in (claim.method, claim.against))
    if (claim.metric, OVERALL) not in ours or (claim.metric, OVERALL) not in theirs:
        return f"{claim.metric} is not defined"
    differences = {
        site: sign * (ours[name, site] - theirs[name, site])
        for name, site in ours
        if (name, site) in theirs and name == (_base(claim.metric) if site else claim.metric)
    }
    overall = differences[OVERALL]
    if np.isnan(overall[0]):
        return f"{claim.metric} is not defined"
    low, high = cell.draws.interval(overall)
    sites = {site: float(values[0]) for site, values in differences.items() if site and not np.isnan(values[0])}
    return Difference(cell, overall, low, high, cell.draws.standard_error(overall), sites, len(common))


def _base(metric: str) -> str:
    """The metric of a site from which a metric over sites is made: ``auroc`` of ``auroc_weighted``."""
    for suffix in ("_weighted", "_pooled", "_sites"):
        metric = metric.removesuffix(suffix)
    return metric


def _same_cases(claim: Claim, cell: CellData) -> bool:
    """Whether both methods have the same test cases in the runs that both have."""
    models: Sequence[Model] = MODELS if claim.model == "balance" else (claim.model,)
    common = cell.runs_of(claim.method, claim.version, claim.model) & cell.runs_of(
        claim.against, claim.version, claim.model
    )
    for model in models:
        both = []
        for method in (claim.method, claim.against):
            rows = cell.tested(method, claim.version, model, common)
            both.append(set(zip(rows["fold"], rows["seed"], rows["site"], rows["case"], strict=True)))
        if both[0] != both[1]:
            return False
    return True


def contrasts_of(evidence: Sequence[Evidence]) -> list[Contrast]:
    """The claims with their differences, adjusted for one another, and the verdicts."""
    drawn = [_mean_draws(one.differences) for one in evidence]
    p_values = [
        None if values is None or not any(d.cell.draws.vary for d in one.differences) else bootstrap_p(values)
        for one, values in zip(evidence, drawn, strict=True)
    ]
    return [
        _contrast(one, values, p, adjusted)
        for one, values, p, adjusted in zip(evidence, drawn, p_values, holm(p_values), strict=True)
    ]


def _mean_draws(differences: Sequence[Difference]) -> Array | None:
    """The mean over cells for each draw; data sets are drawn independently, options of one together."""
    if not differences:
        return None
    found: Array = np.mean([difference.draws for difference in differences], axis=0)
    return found


def _contrast(evidence: Evidence, draws: Array | None, p: float | None, adjusted: float | None) -> Contrast:
    claim, cells = evidence.claim, evidence.differences
    said = {name: getattr(claim, name) for name in type(claim).model_fields}
    if draws is None:
        reason = "; ".join(evidence.problems) or "no predictions of this data set and option"
        return Contrast(**said, reason=reason, planned=evidence.planned)
    first = cells[0].cell.draws
    low, high, se = (
        (cells[0].low, cells[0].high, cells[0].se)
        if len(cells) == 1
        else (
            *first.interval(draws),
            first.standard_error(draws),
        )
    )
    units = _units(cells)
    by_data: dict[str, list[Difference]] = {}
    for one in cells:
        by_data.setdefault(one.cell.cell.data, []).append(one)
    verdict, reason = verdict_of(claim, low, high, adjusted)
    runs = sum(one.runs for one in cells)
    return Contrast(
        **said,
        value=float(draws[0]),
        low=low,
        high=high,
        se=se,
        p=p,
        holm=adjusted,
        detectable=None if se is None else POWER * se,
        verdict=verdict,
        reason="; ".join([reason, *evidence.problems, *_incomplete(runs, evidence.planned)]).strip("; "),
        runs=runs,
        planned=evidence.planned,
        patients=sum(max(one.cell.cell.patients for one in own) for own in by_data.values()),
        unit="site" if len(cells) == 1 else "data set",
        units=units,
        wilcoxon=wilcoxon_p(
            [unit.value for unit in units]
            if len(cells) == 1
            # Options of one data set have the same patients, and are no units of their own.
            else [float(np.mean([one.draws[0] for one in own])) for own in by_data.values()]
        ),
    )


def _incomplete(runs: int, planned: int) -> list[str]:
    return [f"only {runs} of {planned} planned runs of both"] if planned > runs else []


def _units(cells: Sequence[Difference]) -> tuple[UnitDifference, ...]:
    """By site where there is one cell, else by cell."""
    if len(cells) == 1:
        return tuple(UnitDifference(name=site, value=value) for site, value in cells[0].sites.items())
    return tuple(
        UnitDifference(name=cell_title(one.cell.cell.data, one.cell.cell.option), value=float(one.draws[0]))
        for one in cells
    )


def verdict_of(claim: Claim, low: float | None, high: float | None, adjusted: float | None) -> tuple[Verdict, str]:
    """The verdict on a claim by the interval of its difference, and what to add to it.

    In this order: refuted (the interval lies below 0, or below the claimed effect), confirmed (above 0, and the
    adjusted p-value is below .05), equivalent (within the margin), not decided.
    """
    if low is None or high is None:
        return "not decided", "no interval"
    if high < 0:
        return "refuted", "the interval lies below 0"
    if claim.least and high < claim.least:
        return "refuted", f"the interval lies below the claimed effect of {claim.least:g}"
    if low > 0 and adjusted is not None and adjusted < LEAST_P:
        return "confirmed", ""
    above = "the interval lies above 0, but not after Holm's adjustment" if low > 0 else ""
    if claim.margin is not None and -claim.margin <= low and high <= claim.margin:
        return "equivalent", above
    return "not decided", above


def wilcoxon_p(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of Wilcoxon's signed-rank test, from six units on that are not all equal to 0."""
    if len(differences) < FEWEST_UNITS or not any(differences):
        return None
    from scipy.stats import wilcoxon

    return float(wilcoxon(list(differences)).pvalue)


# ---- the best method, and ratios -------------------------------------------------------------------------------------


def best_of(cell: CellData) -> Iterable[Best]:
    """By version and model: the top method by the task's first metric, and whether it is above all others.

    Methods of the very same model (FedNTD on two classes and FedAvg, say) stand as the first of them.
    """
    metric = METRICS[cell.cell.task][0]
    sign = -1.0 if metric.higher_is_better is False else 1.0
    for version in VERSIONS:
        for model in ("global", "personal", "balance"):
            runs = {name: cell.runs_of(name, version, model) for name in cell.cell.methods}
            fullest = max(runs.values(), key=lambda own: (len(own), sorted(own)), default=frozenset())
            draws = {
                name: sign * values[metric.name, OVERALL]
                for name, own in runs.items()
                if own and own == fullest
                if (metric.name, OVERALL) in (values := cell.values(name, version, model))
                if np.isfinite(values[metric.name, OVERALL][0])
            }
            distinct: dict[str, Array] = {}
            for name, drawn in draws.items():
                if not any(np.array_equal(drawn, other, equal_nan=True) for other in distinct.values()):
                    distinct[name] = drawn
            if len(distinct) < 2 or not cell.draws.vary:
                continue
            simultaneous = max_t(distinct)
            top = max(distinct, key=lambda name: distinct[name][0])
            pairs = tuple(
                TopPair(method=name, value=value, low=low, high=high)
                for name in distinct
                if name != top
                for value, low, high in [simultaneous[top, name]]
            )
            yield Best(
                data=cell.cell.data,
                option=cell.cell.option,
                version=version,
                model=model,
                metric=metric.name,
                top=top,
                best=all(pair.low > 0 for pair in pairs),
                pairs=pairs,
                left_out=tuple(name for name, own in runs.items() if own and name not in draws),
            )


def ratios_of(cell: CellData, reference: str) -> Iterable[Ratio]:
    """Every method's global model by the reference's, on the runs that both have: over all sites, and at each.

    Of the task's first metric, and of accuracy where it is one.
    """
    metrics = METRICS[cell.cell.task]
    names = [metric.name for place, metric in enumerate(metrics) if not place or metric.name == "accuracy"]
    for version in VERSIONS:
        for method in cell.cell.methods:
            common = cell.runs_of(method, version, "global") & cell.runs_of(reference, version, "global")
            if method == reference or not common:
                continue
            ours, theirs = (cell.values(one, version, "global", common) for one in (method, reference))
            for name in names:
                keys = [(PLAIN_MEANS.get(name, name), OVERALL), *((name, site.site) for site in cell.cell.sites)]
                for metric, site in keys:
                    found = _ratio(cell, ours.get((metric, site)), theirs.get((metric, site)))
                    if found is not None:
                        yield Ratio(
                            data=cell.cell.data,
                            option=cell.cell.option,
                            method=method,
                            reference=reference,
                            version=version,
                            metric=metric,
                            site=site,
                            value=found[0],
                            low=found[1],
                            high=found[2],
                        )


def _ratio(cell: CellData, above: Array | None, below: Array | None) -> tuple[float, float | None, float | None] | None:
    """The quotient of two metrics (R,) with its interval; None where it is not defined."""
    if above is None or below is None or not np.isfinite(above[0]) or not below[0] > 0:
        return None
    divided = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
    return float(divided[0]), *cell.draws.interval(divided)
