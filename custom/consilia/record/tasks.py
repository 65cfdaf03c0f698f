"""The metrics of one split by learning task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Discriminator, Tag

from consilia.core.task import Task
from consilia.record.split_metrics import Metrics, SegmentationMetrics
from consilia.record.survival_metrics import SurvivalMetrics

METRICS_OF: dict[Task, type[Metrics | SegmentationMetrics | SurvivalMetrics]] = {
    "classification": Metrics,
    "segmentation": SegmentationMetrics,
    "survival": SurvivalMetrics,
}
"""By task, the class of its metrics."""

_OWN_KEY: dict[Task, str] = {"segmentation": "prompts", "survival": "c_index"}
"""A key that only the metrics of this task have; without any of them they are of a classification."""


def task_of(metrics: object) -> Task:
    """The task that metrics are of, validated or as they came."""
    if isinstance(metrics, Mapping):
        return next((task for task, key in _OWN_KEY.items() if key in metrics), "classification")
    return next((task for task, kind in METRICS_OF.items() if isinstance(metrics, kind)), "classification")


# Told apart by their keys, so that an error names the key of the one that was meant.
SplitMetrics = Annotated[
    Annotated[Metrics, Tag("classification")]
    | Annotated[SegmentationMetrics, Tag("segmentation")]
    | Annotated[SurvivalMetrics, Tag("survival")],
    Discriminator(task_of),
]
