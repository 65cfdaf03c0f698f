"""The summary of one run: the metrics of the chosen models, of all rounds, and what the run cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from consilia.core.task import Task
from consilia.evaluation.metrics import FINAL, OVER_ROUNDS, ROUNDS, VARIANTS, number
from consilia.evaluation.rounds import (
    BySite,
    Series,
    Value,
    mean,
    reported,
    split_metrics,
    training_sites,
    view,
    views,
)
from consilia.record.schema import FinalModels, Record, RoundRecord

ELEMENT_BYTES = {"float32": 4, "float16": 2}

Part = (
    Literal["last", "best", "over_rounds", "first_report", "last_report", "costs"]
    | tuple[Literal["variant", "difference"], str]
)
"""A part of a summary that holds numbers by name; with the name of a variant, its metrics or their differences."""
Numbers = Mapping[str, float | None]


@dataclass(frozen=True)
class VariantSummary:
    """A variant of a version, on the test cases of the ``sites`` training sites that have it.

    ``metrics`` by name; ``differences``: that value less the one of the version itself on the same sites.
    """

    sites: int
    metrics: Numbers
    differences: Numbers


@dataclass(frozen=True)
class ModelSummary:
    """One chosen version: its metrics by name (:data:`consilia.evaluation.metrics.FINAL`).

    ``unit`` is that of distances: px, mm, mixed, or None where there are none.
    ``variants``: the method's variants of it that were evaluated, by name.
    """

    version: int
    metrics: Mapping[str, Value]
    unit: str | None = None
    variants: Mapping[str, VariantSummary] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, float | None]:
        """The value of every metric."""
        return {name: found.value for name, found in self.metrics.items()}


@dataclass(frozen=True)
class OverRounds:
    """Metrics of all evaluated versions r >= 1, of which there are ``versions``.

    Personal metrics are here over each round's participants only, with the model they were about to send.
    """

    versions: int
    metrics: Numbers


@dataclass(frozen=True)
class Traffic:
    """Bytes one way: mean and maximum per round and site that trained in it, and in all."""

    mean: float | None
    max: int | None
    total: int


@dataclass(frozen=True)
class ExchangeCost:
    """Parameters exchanged and in all; bytes each way at least (``floor``) and for the whole model in float32."""

    parameters: int
    all_parameters: int
    floor: int
    full: int


@dataclass(frozen=True)
class PhaseCost:
    """Seconds of one phase: mean over the rounds that had it, and in all."""

    mean: float | None
    total: float


@dataclass(frozen=True)
class Costs:
    """Bytes and seconds of a run; ``seconds`` is wall clock."""

    down: Traffic
    up: Traffic
    exchange: ExchangeCost | None
    seconds: float
    phases: Mapping[str, PhaseCost] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes both ways."""
        return self.down.total + self.up.total

    @property
    def numbers(self) -> dict[str, float | None]:
        """What a comparison shows of the costs."""
        return {
            "down_mean": self.down.mean,
            "up_mean": self.up.mean,
            "up_max": self.up.max,
            "total": self.total,
            "floor": None if self.exchange is None else self.exchange.floor,
            "full": None if self.exchange is None else self.exchange.full,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Summary:
    """The metrics of a run; accuracies, rates, AUROC, Dice and IoU are fractions, undefined values None.

    ``first_reports``, ``last_reports``: what sites reported with their updates, by name; means over the sites of the
    first and the last round in which it was reported.
    """

    task: Task
    last: ModelSummary | None
    best: ModelSummary | None
    over_rounds: OverRounds
    first_reports: Numbers
    last_reports: Numbers
    costs: Costs

    @property
    def finals(self) -> dict[Literal["last", "best"], ModelSummary]:
        """The chosen versions that the run has."""
        found: dict[Literal["last", "best"], ModelSummary | None] = {"last": self.last, "best": self.best}
        return {name: chosen for name, chosen in found.items() if chosen is not None}

    def numbers(self, part: Part) -> Numbers:
        """The numbers of one part by name; none where the run lacks it."""
        variants = {} if self.last is None else self.last.variants
        match part:
            case "last" | "best":
                chosen = self.finals.get(part)
                return {} if chosen is None else chosen.numbers
            case ("variant", name):
                return variants[name].metrics if name in variants else {}
            case ("difference", name):
                return variants[name].differences if name in variants else {}
            case "over_rounds":
                return self.over_rounds.metrics
            case "first_report":
                return self.first_reports
            case "last_report":
                return self.last_reports
        return self.costs.numbers


def summarise(record: Record) -> Summary:
    """The summary of a run."""
    reports = {name: found for name in record.fields if (found := reported(record, name))}
    final = {name: summarise_model(record, chosen) for name, chosen in record.final.items()}
    return Summary(
        task=record.run.task,
        last=final.get("last"),
        best=final.get("best"),
        over_rounds=summarise_rounds(record),
        first_reports={name: mean(found[min(found)].values()) for name, found in reports.items()},
        last_reports={name: mean(found[max(found)].values()) for name, found in reports.items()},
        costs=costs(record),
    )


def summarise_model(record: Record, chosen: FinalModels) -> ModelSummary:
    """The metrics of one chosen version."""
    seen = view(record, chosen.global_, chosen.personal)
    found = {metric.name: metric.compute(seen) for metric in FINAL.of(record.run.task)}
    units = seen.units
    return ModelSummary(
        version=chosen.version,
        metrics={name: value if isinstance(value, Value) else Value(value) for name, value in found.items()},
        unit="mixed" if len(units) > 1 else next(iter(units), None),
        variants={
            name: variant
            for name, by_site in chosen.variants.items()
            if (variant := _variant(record, chosen, by_site)) is not None
        },
    )


def series(record: Record) -> Series:
    """The values of every round metric by name and evaluated version, in order; None where there is none."""
    versions = list(views(record))
    found = {metric.name: metric.compute(record) for metric in ROUNDS.of(record.run.task)}
    return {name: {version: values.get(version) for version in versions} for name, values in found.items()}


def summarise_rounds(record: Record) -> OverRounds:
    """The metrics over all rounds."""
    every = series(record)
    return OverRounds(
        versions=sum(version >= 1 for version in views(record)),
        metrics={metric.name: metric.compute(record, every) for metric in OVER_ROUNDS.of(record.run.task)},
    )


def costs(record: Record) -> Costs:
    """Bytes and seconds of a run."""
    exchange = record.exchange
    phases: dict[str, list[float]] = {}
    for part in record.rounds:
        for phase, seconds in part.seconds.items():
            phases.setdefault(phase, []).append(seconds)
    return Costs(
        down=_traffic(record.rounds, "bytes_down"),
        up=_traffic(record.rounds, "bytes_up"),
        exchange=None
        if exchange is None
        else ExchangeCost(
            parameters=exchange.parameters,
            all_parameters=exchange.all_parameters,
            floor=ELEMENT_BYTES[exchange.dtype] * exchange.parameters,
            full=ELEMENT_BYTES["float32"] * exchange.all_parameters,
        ),
        seconds=record.run.seconds,
        phases={phase: PhaseCost(mean(spent), sum(spent)) for phase, spent in phases.items()},
    )


def _traffic(rounds: list[RoundRecord], way: Literal["bytes_down", "bytes_up"]) -> Traffic:
    """Mean and maximum over the sites that were to train and got or sent something; the total is over all sites.

    Others only evaluate: what they send is no update.
    """
    trained = [
        size for part in rounds for site, size in getattr(part, way).items() if size and site in part.participants
    ]
    return Traffic(mean(trained), max(trained, default=None), sum(sum(getattr(part, way).values()) for part in rounds))


def _variant(record: Record, chosen: FinalModels, by_site: BySite) -> VariantSummary | None:
    variant = split_metrics(by_site, training_sites(record))
    whole = split_metrics(chosen.global_, variant)
    variant = {site: variant[site] for site in whole}
    if not variant:
        return None
    metrics, differences = {}, {}
    for metric in VARIANTS.of(record.run.task):
        value, full = number(metric.compute(variant)), number(metric.compute(whole))
        metrics[metric.name] = value
        differences[metric.name] = None if value is None or full is None else value - full
    return VariantSummary(len(variant), metrics, differences)
