"""The record's metrics of one model on one split of one site. See docs/result-schema.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from consilia.core.schema import Strict
from consilia.record.types import Cases, Fraction

ROUNDING = 0.015
"""By how much numbers of one model may disagree: a site may round them to two digits, and counts likewise."""

PromptSetting = Literal["box", "image", "jitter"]

Distance = Annotated[float, Field(ge=0, le=1e6)]


class AtThreshold(Strict):
    """Metrics of the decision "class 1 where its probability is above ``threshold``", null where undefined.

    Of more than two classes ``threshold`` is null, the decision is the likeliest class, and sensitivity, specificity,
    predictive values and F1 are plain means over the classes, each against the others.
    """

    threshold: Fraction | None = None
    accuracy: Fraction | None = None
    balanced_accuracy: Fraction | None = None
    sensitivity: Fraction | None = None
    specificity: Fraction | None = None
    ppv: Fraction | None = None
    npv: Fraction | None = None
    f1: Fraction | None = None


class Interval(Strict):
    """Standard error and 95 % percentile interval of a metric over draws of the site's patients; never averaged."""

    se: Fraction
    low: Fraction
    high: Fraction

    @model_validator(mode="after")
    def _in_order(self) -> Interval:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class PromptInterval(Interval):
    """The same of a segmentation, where HD95 may be above 1."""

    se: Distance
    low: Distance
    high: Distance


IntervalName = Literal[
    "accuracy",
    "balanced_accuracy",
    "auroc",
    "auprc",
    "brier",
    "operating.accuracy",
    "operating.balanced_accuracy",
    "operating.sensitivity",
    "operating.specificity",
    "operating.ppv",
    "operating.npv",
    "operating.f1",
    "at_half.accuracy",
    "at_half.balanced_accuracy",
    "at_half.sensitivity",
    "at_half.specificity",
    "at_half.ppv",
    "at_half.npv",
    "at_half.f1",
]
"""The metrics that have an interval, by the place where they stand."""

PromptIntervalName = Literal[
    "box.dice",
    "box.iou",
    "box.hd95",
    "box.missed",
    "image.dice",
    "image.iou",
    "image.hd95",
    "image.missed",
    "jitter.dice",
    "jitter.iou",
    "jitter.hd95",
    "jitter.missed",
]
"""The same of a segmentation; ``missed`` as a share of the cases whose true mask is not empty."""

ROC_POINTS = 21
"""False-positive rates 0, .05, ... 1."""

RELIABILITY_BINS = 10
"""Of equal width, from 0 to 1."""


class ReliabilityBin(Strict):
    """Cases whose probability lies in one bin: their mean probability, and the share that is of the class.

    Of more than two classes the probability is that of the likeliest class.
    """

    count: NonNegativeInt
    confidence: Fraction | None
    observed: Fraction | None


class Curves(Strict):
    """``roc``: sensitivity at false-positive rates 0, .05, ... 1, empty of more than two classes or without both.

    ``reliability``: the ten bins of equal width, in order.
    """

    roc: tuple[Fraction, ...]
    reliability: Annotated[tuple[ReliabilityBin, ...], Field(min_length=RELIABILITY_BINS, max_length=RELIABILITY_BINS)]

    @model_validator(mode="after")
    def _has_its_points(self) -> Curves:
        if len(self.roc) not in (0, ROC_POINTS):
            raise ValueError(f"roc has {len(self.roc)} points, expected {ROC_POINTS} or none")
        return self


class Metrics(Strict):
    """Classification by one model on one split of one site; flips count against its previous evaluation of the kind.

    Where a site has several tasks, ``tasks`` holds each one's own metrics; ``count``, ``correct`` and ``accuracy`` are
    then over the cases of all tasks, the other metrics means over the tasks.

    ``threshold``: the one chosen on this split's cases, a validation split of two classes. What follows ``tasks`` is of
    final evaluations, on test cases: ``positives`` are the cases of class 1 of two, ``operating`` has the metrics at
    the model's threshold (0.5 where it has none), ``at_half`` those at 0.5.
    """

    count: Cases
    correct: NonNegativeInt
    accuracy: Fraction
    balanced_accuracy: Fraction
    auroc: Fraction | None
    loss: Annotated[float, Field(ge=0, le=1e9)] | None
    threshold: Fraction | None = None
    negative_flips: NonNegativeInt | None = None
    positive_flips: NonNegativeInt | None = None
    tasks: dict[str, Metrics] = Field(default_factory=dict)
    patients: NonNegativeInt | None = None
    positives: NonNegativeInt | None = None
    auprc: Fraction | None = None
    brier: Fraction | None = None
    ece: Fraction | None = None
    operating: AtThreshold | None = None
    at_half: AtThreshold | None = None
    intervals: dict[IntervalName, Interval] = Field(default_factory=dict)
    curves: Curves | None = None

    def of_a_round(self) -> Metrics:
        """Without what only a final evaluation has."""
        defaults = {name: type(self).model_fields[name].get_default(call_default_factory=True) for name in FINAL_ONLY}
        tasks = {name: part.of_a_round() for name, part in self.tasks.items()}
        return self.model_copy(update={**defaults, "tasks": tasks})

    @model_validator(mode="after")
    def _consistent(self) -> Metrics:
        flips = (self.negative_flips or 0) + (self.positive_flips or 0)
        if max(self.correct, flips) > self.count or abs(self.accuracy - self.correct / self.count) > ROUNDING:
            raise ValueError(
                f"{self.correct} of {self.count} correct, {flips} flips and accuracy {self.accuracy} disagree"
            )
        for key, whole in (("count", self.count), ("correct", self.correct)):
            parts = [getattr(part, key) for part in self.tasks.values()]
            if parts and sum(parts) != whole:
                raise ValueError(f"{key} is {whole}, but the tasks' are {parts}")
        return self

    @model_validator(mode="after")
    def _within_the_split(self) -> Metrics:
        binned = sum(part.count for part in self.curves.reliability) if self.curves else 0
        for name, found in (("patients", self.patients), ("positives", self.positives), ("curves.reliability", binned)):
            if (found or 0) > self.count:
                raise ValueError(f"{name}: {found} of {self.count} cases")
        return self

    @model_serializer(mode="wrap")
    def _without_the_missing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return only_where_found(handler(self))


def only_where_found(values: Mapping[str, Any]) -> dict[str, Any]:
    """Most evaluations have none of what only a final one has: a record does not say so each time."""
    return {name: found for name, found in values.items() if name not in ONLY_WHERE_FOUND or found not in (None, {})}


ONLY_WHERE_FOUND = frozenset(
    {"threshold", "patients", "positives", "auprc", "brier", "ece", "operating", "at_half", "intervals", "curves"}
)
"""Keys of metrics that are missing, not null, where there is nothing."""

FINAL_ONLY = ONLY_WHERE_FOUND - {"threshold"}
"""Those of them that only a final evaluation has, of test cases."""


class PromptMetrics(Strict):
    """Segmentation under one prompt setting: means over the cases whose true mask is not empty, each null without one.

    ``missed``: those of them whose predicted mask is empty. Their Dice and IoU are 0 and they have no HD95, so
    ``hd95`` is the mean over the others.
    """

    dice: Fraction | None
    iou: Fraction | None
    hd95: Distance | None = None
    missed: NonNegativeInt


class SegmentationMetrics(Strict):
    """Segmentation by one model on one split of one site, per prompt setting.

    ``empty``: cases whose true mask is empty; they are left out of every mean. ``unit`` is that of HD95.
    ``patients`` and ``intervals`` are of final evaluations, on test cases.
    """

    count: Cases
    empty: NonNegativeInt
    unit: Literal["px", "mm"]
    prompts: Annotated[dict[PromptSetting, PromptMetrics], Field(min_length=1)]
    patients: NonNegativeInt | None = None
    intervals: dict[PromptIntervalName, PromptInterval] = Field(default_factory=dict)

    def of_a_round(self) -> SegmentationMetrics:
        """Without what only a final evaluation has; HD95 stays."""
        return self.model_copy(update={"patients": None, "intervals": {}})

    @property
    def dice(self) -> float | None:
        """Mean Dice with the true box as prompt, or in the first setting if that one was not evaluated."""
        metrics = self.prompts.get("box") or next(iter(self.prompts.values()))
        return metrics.dice

    @model_validator(mode="after")
    def _consistent(self) -> SegmentationMetrics:
        scored = self.count - self.empty
        for setting, metrics in self.prompts.items():
            if scored < metrics.missed:
                raise ValueError(
                    f"prompts.{setting}: {self.empty} empty and {metrics.missed} missed of {self.count} cases"
                )
            if not _agree(metrics, scored):
                raise ValueError(
                    f"prompts.{setting}: dice {metrics.dice}, iou {metrics.iou} and hd95 {metrics.hd95} disagree with "
                    f"each other, or with {metrics.missed} missed of {scored} cases that are not empty"
                )
        return self

    @model_validator(mode="after")
    def _intervals_are_of_its_metrics(self) -> SegmentationMetrics:
        if (self.patients or 0) > self.count:
            raise ValueError(f"patients: {self.patients} of {self.count} cases")
        for name, interval in self.intervals.items():
            setting, _, metric = name.partition(".")
            if setting not in self.prompts:
                raise ValueError(f"intervals.{name}: expected one of {', '.join(self.prompts)} before the dot")
            if metric != "hd95" and max(interval.se, interval.high) > 1:
                raise ValueError(f"intervals.{name}: expected at most 1, got se {interval.se}, high {interval.high}")
        return self

    @model_serializer(mode="wrap")
    def _without_the_missing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return only_where_found(handler(self))


def _agree(metrics: PromptMetrics, scored: int) -> bool:
    """Whether the means can be those of ``scored`` cases, of which ``missed`` have Dice 0: Dice / 2 <= IoU <= Dice."""
    if not scored or metrics.dice is None or metrics.iou is None:
        return not scored and metrics.dice is metrics.iou is metrics.hd95 is None
    found, slack = scored - metrics.missed, ROUNDING
    in_order = metrics.dice / 2 - slack <= metrics.iou <= metrics.dice + slack
    return in_order and metrics.dice <= found / scored + slack and (found > 0 or metrics.hd95 is None)
