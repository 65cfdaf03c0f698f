"""The schema of a run's record, ``result.json``. See docs/result-schema.md.

Version r is the global model after round r; version 0 is the initial model. Undefined values are null, never NaN.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, NonNegativeInt, model_validator

from consilia.core.plain import plain_json
from consilia.core.schema import Strict
from consilia.core.task import Task
from consilia.record.split_metrics import (
    FINAL_ONLY,
    ONLY_WHERE_FOUND,
    ROUNDING,
    AtThreshold,
    Curves,
    Interval,
    IntervalName,
    Metrics,
    PromptInterval,
    PromptIntervalName,
    PromptMetrics,
    PromptSetting,
    ReliabilityBin,
    SegmentationMetrics,
)
from consilia.record.survival_metrics import SurvivalMetrics
from consilia.record.tasks import SplitMetrics, task_of
from consilia.record.types import Fraction, NonNegative

__all__ = [
    "FINAL_ONLY",
    "ONLY_WHERE_FOUND",
    "ROUNDING",
    "Absence",
    "AtThreshold",
    "Contribution",
    "Curves",
    "Evaluation",
    "Exchange",
    "FieldInfo",
    "FinalModels",
    "Interval",
    "IntervalName",
    "Metrics",
    "PromptInterval",
    "PromptIntervalName",
    "PromptMetrics",
    "PromptSetting",
    "Record",
    "ReliabilityBin",
    "RoundRecord",
    "RunInfo",
    "SegmentationMetrics",
    "SiteInfo",
    "SiteMetrics",
    "SplitMetrics",
    "SurvivalMetrics",
]


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

    ``tasks``: training cases by dataset, where the run trains several together. ``layout``: the keys of its site.yaml
    that decide what an input means, and the shape of one.
    """

    train: NonNegativeInt
    validation: NonNegativeInt
    test: NonNegativeInt
    test_only: bool
    fingerprint: str
    tasks: dict[str, NonNegativeInt] = Field(default_factory=dict)
    layout: tuple[str, ...] = ()


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


class SiteMetrics(Strict):
    """Metrics of both splits, of one kind; a split without cases (or not evaluated) is null."""

    validation: SplitMetrics | None
    test: SplitMetrics | None

    @property
    def task(self) -> Task | None:
        """The task that the metrics are of; None if there are none."""
        metrics = self.test or self.validation
        return None if metrics is None else task_of(metrics)

    def of_a_round(self) -> SiteMetrics:
        """Without what only a final evaluation has, but HD95."""
        found = {name: getattr(self, name) for name in ("validation", "test")}
        return self.model_copy(update={name: part.of_a_round() for name, part in found.items() if part is not None})

    @model_validator(mode="after")
    def _one_kind(self) -> SiteMetrics:
        if self.validation is not None and self.test is not None and type(self.validation) is not type(self.test):
            raise ValueError(
                f"one task for both splits expected, got {task_of(self.validation)} and {task_of(self.test)}"
            )
        return self


class Evaluation(Strict):
    """``global``: that version at every site. ``personal``: round r's participants' own models before aggregation."""

    version: NonNegativeInt
    model: Literal["global", "personal"]
    sites: dict[str, SiteMetrics]


class FinalModels(Strict):
    """A chosen global version, and the personal models that every training site made from it after the rounds.

    ``variants``: metrics of the method's variants of the global version, by variant and site. ``threshold``: of the
    global version, above which probability a case counts as class 1; null: none was found, 0.5 stands for it.
    """

    version: NonNegativeInt
    sha256: str
    threshold: Fraction | None = None
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
    not take part, and why. ``absences``: when sites that took part did not answer, in order. ``warnings``: what puts
    the results in doubt, a sentence each. ``sections``: by method, what it says of its own work at the server;
    ``server_fingerprint``: of the server's own data that it used.
    ``preprocessing``: mean and deviation of the raw values of all training sites, where the run pooled them.
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
    preprocessing: dict[str, list[float]] | None = None
    warnings: list[str] = Field(default_factory=list)

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
