"""Which metrics leave a site, and how many digits of them: the one place, whatever engine runs the site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from consilia.data.dataset import DatasetSplits, Split
from consilia.data.limits import SiteLimits
from consilia.methods.tasks import TASKS

OF_THE_SPLIT = ("count", "empty", "patients")
"""They describe the cases, not what a model makes of them."""


def fewest_cases(dataset: DatasetSplits[Split], part: str) -> int:
    """Cases that a split's metrics rest on: of the rarest class, with a structure, or with the event."""
    return TASKS[dataset.task].fewest_cases(dataset.split(part), dataset.num_classes)


def releasable(metrics: Mapping[str, Any] | None, fewest: int, limits: SiteLimits) -> dict[str, Any] | None:
    """One model's metrics on one split as they may be sent; None: withheld.

    Fractions and scores are rounded to ``limits.round_metrics`` digits d; counts of cases down to multiples of
    ``count / 10^d``, which is 1 where the split has fewer than 2 * 10^d cases. A threshold is rounded likewise, but not
    to 0 or 1, where it would no longer part anything. Of a bin of the reliability curve with fewer cases than
    ``limits.min_cases_per_metric`` only their number is sent: it would tell single cases' probabilities.

    Args:
        metrics: as the task computes them; None for an empty split.
        fewest: as :func:`fewest_cases` has it.
        limits: of the site.
    """
    if metrics is None or (limits.min_cases_per_metric is not None and fewest < limits.min_cases_per_metric):
        return None
    metrics = _without_small_bins(metrics, limits.min_cases_per_metric or 0)
    if limits.round_metrics is None:
        return metrics
    return _rounded(metrics, limits.round_metrics, max(1, metrics["count"] // 10**limits.round_metrics))


def _without_small_bins(metrics: Mapping[str, Any], fewest: int) -> dict[str, Any]:
    curves = metrics.get("curves")
    if curves is None:
        return dict(metrics)
    bins = [
        part if part["count"] >= fewest else {**part, "confidence": None, "observed": None}
        for part in curves["reliability"]
    ]
    return {**metrics, "curves": {**curves, "reliability": bins}}


def _rounded(metrics: Mapping[str, Any], digits: int, step: int) -> dict[str, Any]:
    return {
        name: value if name in OF_THE_SPLIT else _as_sent(name, value, digits, step) for name, value in metrics.items()
    }


def _as_sent(name: str, value: Any, digits: int, step: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_sent(key, part, digits, step) for key, part in value.items()}
    if isinstance(value, list):
        return [_as_sent(name, part, digits, step) for part in value]
    if isinstance(value, float):
        rounded = round(value, digits)
        least = 10.0**-digits
        return min(max(rounded, least), 1 - least) if name == "threshold" else rounded
    if isinstance(value, int):
        return value // step * step
    return value
