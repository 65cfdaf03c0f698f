"""The kinds of metrics of a run, their registries, and what their computations share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from consilia.evaluation.rounds import (
    Series,
    Tested,
    Value,
    View,
    mean,
    test_only_sites,
    views,
)
from consilia.record.metrics import Metric, Registry, Unit
from consilia.record.schema import Record


@dataclass(frozen=True)
class Terminal:
    """How a metric stands in the table on the terminal.

    Args:
        place: from the left.
        heading: short.
        factor: what its value is multiplied by.
        legend: a sentence below the table.
    """

    place: int
    heading: str
    factor: float
    legend: str = ""


@dataclass(frozen=True, kw_only=True)
class FinalMetric(Metric):
    """A metric of one chosen version.

    Args:
        compute: its value from the version's view.
        table: of the comparison, in which it stands; None: in none.
        brief: whether it stands in the comparison's table of the best version too.
        terminal: how it stands on the terminal; None: not there.
    """

    compute: Callable[[View], float | Value | None]
    table: Literal["global", "decisions", "distance", "personal", "personal_decisions"] | None = "global"
    brief: bool = False
    terminal: Terminal | None = None


@dataclass(frozen=True, kw_only=True)
class RoundMetric(Metric):
    """A metric of every version; ``compute`` gives its values by version."""

    compute: Callable[[Record], Mapping[int, float | None]]


@dataclass(frozen=True, kw_only=True)
class OverRoundsMetric(Metric):
    """A metric of all rounds; ``compute`` gets the record and the values of every round metric by version."""

    compute: Callable[[Record, Series], float | None]
    table: Literal["means", "forgetting", "convergence"] = "means"
    terminal: Terminal | None = None


@dataclass(frozen=True, kw_only=True)
class VariantMetric(Metric):
    """A metric of a variant of the global model; ``compute`` gets test metrics by site."""

    compute: Callable[[Tested], float | None]


FINAL: Registry[FinalMetric] = Registry()
ROUNDS: Registry[RoundMetric] = Registry()
OVER_ROUNDS: Registry[OverRoundsMetric] = Registry()
VARIANTS: Registry[VariantMetric] = Registry()


def balance(view: View, general: float | None, personal: float | None) -> float | None:
    """Mean of both; None where one is undefined, and where an unseen site scores the one and other sites the other."""
    unseen = view.tested.keys() - view.home.keys()
    return None if unseen or general is None or personal is None else (general + personal) / 2


def every(compute: Callable[[View], float | Value | None]) -> Callable[[Record], Mapping[int, float | None]]:
    """A metric of a view, for every version."""
    return lambda record: {version: number(compute(one)) for version, one in views(record).items()}


def number(found: float | Value | None) -> float | None:
    """The number in what a metric computes."""
    return found.value if isinstance(found, Value) else found


def mean_of(name: str) -> Callable[[Record, Series], float | None]:
    """The mean of a round metric over the evaluated versions r >= 1."""
    return lambda record, series: mean(value for version, value in series[name].items() if version >= 1)


def balance_of(general: str, personal: str) -> Callable[[Record, Series], float | None]:
    """The mean of the means over rounds of two round metrics; None where :func:`balance` is."""
    means = mean_of(general), mean_of(personal)

    def compute(record: Record, series: Series) -> float | None:
        values = [value for one in means if (value := one(record, series)) is not None]
        return None if test_only_sites(record) or len(values) < len(means) else sum(values) / len(values)

    return compute


MEAN = "mean of sites"
BY_PATIENTS = "mean of sites, weighted by test patients"
WITHIN = "the first round from which on {} stays within 0.01 of the last version's"
OWN = "participants' models right after training"


def round_metric(
    name: str, unit: Unit, meaning: str, compute: Callable[[Record], Mapping[int, float | None]], higher: bool = True
) -> RoundMetric:
    return RoundMetric(name, name.replace("_", " "), unit, higher, meaning, compute=compute)
