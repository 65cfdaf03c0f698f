"""Which round was best, on validation alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from consilia.core.task import Task
from consilia.record.metrics import PREDICTIONS
from consilia.record.schema import SegmentationMetrics, SiteMetrics


def validation_value(by_site: Mapping[str, SiteMetrics], metric: str) -> float | None:
    """Mean over the sites of a validation metric, turned so that higher is better; None where no site has it."""
    found = [site.validation for site in by_site.values() if site.validation is not None]
    values = [value for split in found if (value := getattr(split, metric)) is not None]
    if not values:
        return None
    task: Task = "segmentation" if isinstance(found[0], SegmentationMetrics) else "classification"
    return PREDICTIONS.get(task, metric).oriented(math.fsum(values) / len(values))


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
        value = validation_value(metrics, self.metric)
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
