"""Which metrics leave a site, and how many digits of them: the one place, whatever engine runs the site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from consilia.data.dataset import DatasetSplits, Split
from consilia.data.limits import SiteLimits

OF_THE_SPLIT = ("count", "empty")
"""They describe the cases, not what a model makes of them."""


def fewest_cases(dataset: DatasetSplits[Split], part: str) -> int:
    """Cases of the rarest class in a split; of a segmentation those with a structure, whom its metrics are about."""
    labels = dataset.split(part).labels
    if dataset.task == "segmentation":
        return int(labels.flatten(1).any(1).sum())
    return int(labels.bincount(minlength=dataset.num_classes).min())


def releasable(metrics: Mapping[str, Any] | None, fewest: int, limits: SiteLimits) -> dict[str, Any] | None:
    """One model's metrics on one split as they may be sent; None: withheld.

    Fractions and scores are rounded to ``limits.round_metrics`` digits d; counts of cases down to multiples of
    ``count / 10^d``, which is 1 where the split has fewer than 2 * 10^d cases.

    Args:
        metrics: as the task computes them; None for an empty split.
        fewest: as :func:`fewest_cases` has it.
        limits: of the site.
    """
    if metrics is None or (limits.min_cases_per_metric is not None and fewest < limits.min_cases_per_metric):
        return None
    if limits.round_metrics is None:
        return dict(metrics)
    return _rounded(metrics, limits.round_metrics, max(1, metrics["count"] // 10**limits.round_metrics))


def _rounded(metrics: Mapping[str, Any], digits: int, step: int) -> dict[str, Any]:
    rounded: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            rounded[name] = _rounded(value, digits, step)
        elif isinstance(value, float):
            rounded[name] = round(value, digits)
        elif isinstance(value, int) and name not in OF_THE_SPLIT:
            rounded[name] = value // step * step
        else:
            rounded[name] = value
    return rounded
