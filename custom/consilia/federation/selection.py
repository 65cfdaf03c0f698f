"""Which round was best, on validation alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from consilia.evaluation.rounds import Split, pooled_loss
from consilia.record.metrics import PREDICTIONS
from consilia.record.schema import Metrics, SiteMetrics

POOLED = "loss"
"""The metric that is a sum over cases: its mean is over the cases of all sites, whatever their number at each."""


def validation_value(by_site: Mapping[str, SiteMetrics], metric: str) -> float | None:
    """A validation metric over all sites; None where no site has it.

    The loss is pooled over cases, sum of loss_k n_k / sum of n_k: a site of three cases decides as much as three cases.
    Of a survival it is the sum of the sites' partial likelihoods, each site a stratum; one without events has none.
    Any other metric is the mean over the sites, as AUROC and Dice of several sites do not add up. Where sites have
    several tasks, the loss is pooled for each task, and the value is the mean over the tasks: of unlike numbers of
    classes or cases, none decides alone.
    """
    found = [site.validation for site in by_site.values() if site.validation is not None]
    if metric == POOLED:
        return _pooled_loss(found)
    return _mean([value for split in found if (value := getattr(split, metric)) is not None])


def oriented_value(by_site: Mapping[str, SiteMetrics], metric: str) -> float | None:
    """The validation value, turned so that higher is better."""
    value = validation_value(by_site, metric)
    task = next((site.task for site in by_site.values() if site.task is not None), None)
    return None if value is None or task is None else PREDICTIONS.get(task, metric).oriented(value)


def _pooled_loss(found: Sequence[Split]) -> float | None:
    several = [split for split in found if isinstance(split, Metrics)]
    tasks = {task for split in several for task in split.tasks}
    if tasks:
        parts = [[split.tasks[task] for split in several if task in split.tasks] for task in sorted(tasks)]
        return _mean([value for part in parts if (value := _pooled_loss(part)) is not None])
    return pooled_loss(found)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


class BestRound:
    """The best version so far, and for how many looks nothing better has come.

    Args:
        metric: a validation metric's name.
        initial: the state of version 0, which is never chosen.
    """

    def __init__(self, metric: str, initial: Mapping[str, Tensor]) -> None:
        self.metric = metric
        self.state = initial
        self.version = 0
        self.value = -math.inf
        self.stale = 0

    def offer(self, version: int, state: Mapping[str, Tensor], metrics: Mapping[str, SiteMetrics]) -> bool:
        """Whether a version's metrics are better than all before; it is kept then."""
        value = oriented_value(metrics, self.metric)
        if value is None or version == 0:
            return False
        if value > self.value:
            self.version, self.state, self.value, self.stale = version, state, value, 0
            return True
        self.stale += 1
        return False

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the state itself."""
        value = self.value if math.isfinite(self.value) else None
        return {"version": self.version, "value": value, "stale": self.stale}

    def restore(self, saved: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self.version, self.stale, self.state = saved["version"], saved["stale"], state
        self.value = -math.inf if saved["value"] is None else saved["value"]
