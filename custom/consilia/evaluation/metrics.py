"""The metrics of a run: each an entry with the function that computes it.

``FINAL`` of a chosen version, ``ROUNDS`` of every version, ``OVER_ROUNDS`` of all rounds together, ``VARIANTS`` of a
variant of a version beside the version itself. A new metric is one more entry: the summary, the tables of the
comparison, the report and TensorBoard take what they show from here.
"""

from __future__ import annotations

from consilia.evaluation import classification_metrics, segmentation_metrics, survival_metrics
from consilia.evaluation.metric_kinds import (
    FINAL,
    OVER_ROUNDS,
    ROUNDS,
    VARIANTS,
    FinalMetric,
    OverRoundsMetric,
    RoundMetric,
    Terminal,
    VariantMetric,
    number,
)
from consilia.evaluation.segmentation_metrics import PROMPTS

__all__ = [
    "FINAL",
    "OVER_ROUNDS",
    "PROMPTS",
    "ROUNDS",
    "VARIANTS",
    "FinalMetric",
    "OverRoundsMetric",
    "RoundMetric",
    "Terminal",
    "VariantMetric",
    "classification_metrics",
    "number",
    "segmentation_metrics",
    "survival_metrics",
]
