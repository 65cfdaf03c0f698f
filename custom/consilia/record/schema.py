"""The schema of a run's record, ``result.json``. See docs/result-schema.md.

Version r is the global model after round r; version 0 is the initial model. Undefined values are null, never NaN.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    JsonValue,
    NonNegativeInt,
    Tag,
    model_validator,
)

from consilia.core.plain import plain_json
from consilia.core.schema import Strict
from consilia.core.task import Task
from consilia.record.types import Cases, Fraction, NonNegative

ROUNDING = 0.015
"""By how much numbers of one model may disagree: a site may round them to two digits, and counts likewise."""

PromptSetting = Literal["box", "image", "jitter"]


class RunInfo(Strict):
    """What was run. ``label`` groups the seeds of one method; ``started`` is ISO 8601; ``seconds`` wall clock.

    ``best_by``: the validation metric by which the best model was chosen; null where no site sent any, and the last one
    stands for it.

    No record with status ``running`` is ever saved: it is what live metrics are made from.
    """

    id: str
    name: str
    method: str
    label: str
    task: Task = "classification"
    engine: Literal["inprocess", "sim", "poc", "prod"]
    seed: int
    status: Literal["running", "finished", "stopped_early"]
    rounds_planned: NonNegativeInt
    rounds_done: NonNegativeInt
    started: str
    seconds: NonNegative
    best_by: str | None = None


class SiteInfo(Strict):
    """Cases per split, whether the site only evaluates, and the fingerprint of its data (no patient is in it).

    ``tasks``: training cases by dataset, where the run trains several together.
    """

    train: NonNegativeInt
    validation: NonNegativeInt
    test: NonNegativeInt
    test_only: bool
    fingerprint: str
    tasks: dict[str, NonNegativeInt] = Field(default_factory=dict)


class Contribution(Strict):
    """One accepted update: ``weight`` is its normalised share of the aggregate.

    ``fields``: what the site reported, by the names of ``Record.fields``; ``weight`` among them is the weight that it
    claimed. ``clipped``: the factor by which the update's change was scaled down to the largest norm allowed, null
    where it was not.
    """

    weight: NonNegative
    samples: NonNegativeInt
    fields: dict[str, float]
    clipped: Fraction | None


class RoundRecord(Strict):
    """Round r = 1..T, from version r-1 to version r. Bytes are per site as sent; ``seconds`` per phase.

    ``max_update_norm``: the largest L2 norm of an update's change that was accepted; null: any.
    """

    round: Annotated[int, Field(ge=1)]
    participants: list[str]
    contributions: dict[str, Contribution]
    refused: dict[str, str]
    missing: list[str]
    bytes_down: dict[str, NonNegativeInt]
    bytes_up: dict[str, NonNegativeInt]
    seconds: dict[str, NonNegative]
    sha256: str
    max_update_norm: NonNegative | None = None


class Metrics(Strict):
    """Classification by one model on one split of one site; flips count against its previous evaluation of the kind.

    Where a site has several tasks, ``tasks`` holds each one's own metrics; ``count``, ``correct`` and ``accuracy`` are
    then over the cases of all tasks, the other metrics means over the tasks.
    """

    count: Cases
    correct: NonNegativeInt
    accuracy: Fraction
    balanced_accuracy: Fraction
    auroc: Fraction | None
    loss: Annotated[float, Field(ge=0, le=1e9)] | None
    negative_flips: NonNegativeInt | None = None
    positive_flips: NonNegativeInt | None = None
    tasks: dict[str, Metrics] = Field(default_factory=dict)

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


class PromptMetrics(Strict):
    """Segmentation under one prompt setting: means over the cases whose true mask is not empty, each null without one.

    ``missed``: those of them whose predicted mask is empty. Their Dice and IoU are 0 and they have no HD95, so
    ``hd95`` is the mean over the others.
    """

    dice: Fraction | None
    iou: Fraction | None
    hd95: Annotated[float, Field(ge=0, le=1e6)] | None = None
    missed: NonNegativeInt


class SegmentationMetrics(Strict):
    """Segmentation by one model on one split of one site, per prompt setting.

    ``empty``: cases whose true mask is empty; they are left out of every mean. ``unit`` is that of HD95.
    """

    count: Cases
    empty: NonNegativeInt
    unit: Literal["px", "mm"]
    prompts: Annotated[dict[PromptSetting, PromptMetrics], Field(min_length=1)]

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


def _agree(metrics: PromptMetrics, scored: int) -> bool:
    """Whether the means can be those of ``scored`` cases, of which ``missed`` have Dice 0: Dice / 2 <= IoU <= Dice."""
    if not scored or metrics.dice is None or metrics.iou is None:
        return not scored and metrics.dice is metrics.iou is metrics.hd95 is None
    found, slack = scored - metrics.missed, ROUNDING
    in_order = metrics.dice / 2 - slack <= metrics.iou <= metrics.dice + slack
    return in_order and metrics.dice <= found / scored + slack and (found > 0 or metrics.hd95 is None)


def _kind(metrics: object) -> Task:
    segmented = "prompts" in metrics if isinstance(metrics, Mapping) else isinstance(metrics, SegmentationMetrics)
    return "segmentation" if segmented else "classification"


# Told apart by their keys, so that an error names the key of the one that was meant.
SplitMetrics = Annotated[
    Annotated[Metrics, Tag("classification")] | Annotated[SegmentationMetrics, Tag("segmentation")],
    Discriminator(_kind),
]


class SiteMetrics(Strict):
    """Metrics of both splits, of one kind; a split without cases (or not evaluated) is null."""

    validation: SplitMetrics | None
    test: SplitMetrics | None

    @property
    def task(self) -> Task | None:
        """The task that the metrics are of; None if there are none."""
        metrics = self.test or self.validation
        return None if metrics is None else _kind(metrics)

    @model_validator(mode="after")
    def _one_kind(self) -> SiteMetrics:
        if self.validation is not None and self.test is not None and type(self.validation) is not type(self.test):
            raise ValueError(f"one task for both splits expected, got {_kind(self.validation)} and {_kind(self.test)}")
        return self


class Evaluation(Strict):
    """``global``: that version at every site. ``personal``: round r's participants' own models before aggregation."""

    version: NonNegativeInt
    model: Literal["global", "personal"]
    sites: dict[str, SiteMetrics]


class FinalModels(Strict):
    """A chosen global version, and the personal models that every training site made from it after the rounds.

    ``variants``: metrics of the method's variants of the global version, by variant and site.
    """

    version: NonNegativeInt
    sha256: str
    global_: dict[str, SiteMetrics] = Field(alias="global")
    personal: dict[str, SiteMetrics]
    variants: dict[str, dict[str, SiteMetrics]]


class Absence(Strict):
    """A time in which a site did not answer: ``since`` it was asked in vain, ``until`` it answered again or null."""

    site: str
    since: str
    until: str | None = None


class FieldInfo(Strict):
    """What a number is that sites report with their updates: the heading of its column, and its meaning."""

    heading: str
    meaning: str


class Exchange(Strict):
    """What travels each way: ``parameters`` elements, where full fine-tuning would exchange ``all_parameters``."""

    parameters: Annotated[int, Field(ge=1)]
    all_parameters: Annotated[int, Field(ge=1)]
    dtype: Literal["float32", "float16"]


class Record(Strict):
    """A whole run. ``config`` and ``versions`` are kept as given; baselines are records of their own.

    ``fields``: the numbers that the method's sites report with their updates, by name. ``absent``: sites that could
    not take part, and why. ``absences``: when sites that took part did not answer, in order. ``sections``: by method,
    what it says of its own work at the server; ``server_fingerprint``: of the server's own data that it used.
    """

    schema_: Literal["consilia.result/2"] = Field(default="consilia.result/2", alias="schema")
    run: RunInfo
    config: dict[str, JsonValue]
    versions: dict[str, str | None]
    sites: dict[str, SiteInfo]
    class_names: list[str]
    fields: dict[str, FieldInfo]
    rounds: list[RoundRecord]
    evaluations: list[Evaluation]
    final: dict[Literal["last", "best"], FinalModels]
    exchange: Exchange | None
    sections: dict[str, JsonValue]
    server_fingerprint: str | None
    absent: dict[str, str]
    absences: list[Absence] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        """Names and reasons are of sites, and a file may be of anybody: every reader of a record gets plain text."""
        return plain_json(values)

    @model_validator(mode="after")
    def _only_known_sites(self) -> Record:
        named = {absence.site for absence in self.absences}
        for part in self.rounds:
            named.update(part.participants, part.contributions, part.refused, part.missing)
            named.update(part.bytes_down, part.bytes_up)
        for sites in self._evaluated():
            named.update(sites)
        if unknown := sorted(named - self.sites.keys()):
            raise ValueError(f"sites must list every site that is used, but lacks {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def _of_the_task(self) -> Record:
        for sites in self._evaluated():
            for site, metrics in sites.items():
                if metrics.task not in (None, self.run.task):
                    raise ValueError(f"run.task is {self.run.task}, but site {site} has metrics of {metrics.task}")
        return self

    def _evaluated(self) -> list[dict[str, SiteMetrics]]:
        chosen = [
            part for final in self.final.values() for part in (final.global_, final.personal, *final.variants.values())
        ]
        return [*(evaluation.sites for evaluation in self.evaluations), *chosen]

    def plain(self) -> dict[str, Any]:
        """The record as plain dicts, lists, numbers and strings, keyed and ordered as in result.json."""
        # A record made in memory and the same one read from disk must give the same report to the byte.
        plain: dict[str, Any] = json.loads(json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True))
        return plain
