"""The registry of metrics: what each is called, its unit, which way is better, and how its values are written.

Everything that shows, compares or selects by a metric takes these from here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from consilia.core.errors import ConfigError
from consilia.core.task import Task

UNDEFINED = "–"

Unit = Literal["percent", "score", "signed", "rounds", "distance", "megabytes", "ratio"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: its key in records and summaries.
        heading: of its column or row.
        unit: how a value is written, see :func:`show`.
        higher_is_better: False where lower is better, None where neither is.
        meaning: in a few words.
        selects: whether the best round may be selected by it.
    """

    name: str
    heading: str
    unit: Unit
    higher_is_better: bool | None
    meaning: str
    selects: bool = False

    def oriented(self, value: float) -> float:
        """The value, turned so that higher is better."""
        return -value if self.higher_is_better is False else value


M = TypeVar("M", bound=Metric)


class Registry(Generic[M]):
    """Metrics by task and name, in the order in which tables show them."""

    def __init__(self) -> None:
        self._metrics: dict[tuple[Task, str], M] = {}

    def add(self, task: Task, metrics: Iterable[M]) -> None:
        """Register metrics of a task.

        Raises:
            ConfigError: the task has a metric of that name already.
        """
        for metric in metrics:
            if (task, metric.name) in self._metrics:
                raise ConfigError(f"metric {metric.name!r} of {task} is registered already: choose another name")
            self._metrics[task, metric.name] = metric

    def remove(self, task: Task, name: str) -> None:
        """Take a metric out again."""
        del self._metrics[task, name]

    def of(self, task: Task) -> list[M]:
        """The metrics of a task."""
        return [metric for (own, _), metric in self._metrics.items() if own == task]

    def get(self, task: Task, name: str) -> M:
        """One metric.

        Raises:
            ConfigError: the task has none of that name; the message lists what it has.
        """
        if (task, name) not in self._metrics:
            known = ", ".join(metric.name for metric in self.of(task))
            raise ConfigError(f"there is no metric {name!r} of {task}; known: {known}")
        return self._metrics[task, name]


PREDICTIONS: Registry[Metric] = Registry()
"""By task, the metrics that a site computes from a model's predictions on one split (a segmentation: per prompt)."""

PREDICTIONS.add(
    "classification",
    [
        Metric("accuracy", "Accuracy", "percent", True, "share of correct cases", selects=True),
        Metric("balanced_accuracy", "Balanced accuracy", "percent", True, "mean recall of the classes", selects=True),
        Metric("auroc", "AUROC", "score", True, "area under the ROC curve", selects=True),
        Metric("loss", "Loss", "score", False, "mean cross-entropy", selects=True),
    ],
)
PREDICTIONS.add(
    "segmentation",
    [
        Metric("dice", "Dice", "score", True, "overlap", selects=True),
        Metric("iou", "IoU", "score", True, "intersection over union"),
        Metric(
            "hd95",
            "HD95",
            "distance",
            False,
            "95th percentile of the distance between the outlines; lower is better",
        ),
    ],
)

PREDICTIONS.add(
    "survival",
    [
        Metric("c_index", "C-index", "score", True, "share of comparable pairs in the right order", selects=True),
        Metric("loss", "Loss", "score", False, "negative log partial likelihood per case", selects=True),
    ],
)

PRIMARY: dict[Task, str] = {"classification": "accuracy", "segmentation": "dice", "survival": "c_index"}
"""By task, the metric by which models are ranked and drawn."""

SELECT_BY: dict[Task, str] = {"classification": "loss", "segmentation": "dice", "survival": "loss"}
"""By task, the metric of validation cases by which the best round is selected, unless a run says another."""


def selectable(task: Task) -> list[str]:
    """Names of the metrics by which the best round of a task may be selected."""
    return [metric.name for metric in PREDICTIONS.of(task) if metric.selects]


def show(value: float | None, unit: Unit) -> str:
    """A value as text: fractions as per cent with one decimal, scores with three, signed ones with their sign.

    Rounds have a decimal only where they need one; distances have two, and their unit stands in the heading. Bytes are
    shown in millions (``megabytes``); a ``ratio`` may be tiny and has two significant digits.
    """
    if value is None:
        return UNDEFINED
    if unit == "percent":
        return f"{100 * value:.1f} %"
    if unit == "rounds":
        return f"{value:.1f}".removesuffix(".0")
    if unit == "distance":
        return f"{value:.2f}"
    if unit == "ratio":
        return f"{value:.2g}"
    if unit == "megabytes":
        return f"{value / 1e6:.3f}"
    return f"{value:+.3f}".replace("-", "−") if unit == "signed" else f"{value:.3f}"


def show_spread(mean: float | None, sd: float | None, unit: Unit) -> str:
    """Mean and sample standard deviation over seeds as text; the mean alone where there is no spread."""
    if mean is None or sd is None:
        return show(mean, unit)
    if unit == "percent":
        return f"{100 * mean:.1f} ± {100 * sd:.1f} %"
    if unit in ("rounds", "distance"):
        return f"{show(mean, unit)} ± {show(sd, unit)}"
    if unit == "megabytes":
        return f"{show(mean, unit)} ± {show(sd, unit)}"
    return f"{show(mean, unit)} ± {sd:.1g}" if unit == "ratio" else f"{show(mean, unit)} ± {sd:.3f}"
