"""The figures that tables show: heading, unit and plain meaning of each, and how a value is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from consilia.core.task import Task
from consilia.evaluation.rounds import TASKS

UNDEFINED = "–"

Unit = Literal["percent", "score", "signed", "rounds", "distance"]


@dataclass(frozen=True)
class Figure:
    """A figure of :func:`consilia.evaluation.summary.summarise`: ``key`` is its dotted path, e.g. ``last.balance``."""

    key: str
    heading: str
    unit: Unit
    meaning: str


_CLASSIFICATION = (
    Figure("global_accuracy", "Global accuracy,\u00a0G", "percent", "the shared model; all test cases pooled"),
    Figure("global_balanced_accuracy", "Global balanced accuracy", "percent", "mean recall of classes; mean of sites"),
    Figure("global_auroc", "Global AUROC", "score", "computed per site, then averaged; never pooled"),
    Figure("worst_site_global.accuracy", "Worst site, global", "percent", "lowest accuracy of the shared model"),
    Figure("personal_accuracy", "Personal accuracy,\u00a0L", "percent", "each site's own model at home; mean of sites"),
    Figure(
        "personal_balanced_accuracy",
        "Personal balanced accuracy",
        "percent",
        "mean recall of classes; mean of sites",
    ),
    Figure("personal_auroc", "Personal AUROC", "score", "computed per site, then averaged; never pooled"),
    Figure("worst_site.accuracy", "Worst site, personal", "percent", "lowest accuracy of a site's own model"),
    Figure("balance", "Balance, (G\u00a0+\u00a0L)\u00a0/\u00a02", "percent", "general and personal in one number"),
)

_PROMPTS = {"box": "true box", "image": "whole image", "jitter": "jittered box"}
_MEASURES: dict[str, tuple[str, Unit, str]] = {
    "dice": ("Dice", "score", "overlap"),
    "iou": ("IoU", "score", "intersection over union"),
    "hd95": ("HD95", "distance", "95th percentile of the distance between the outlines; lower is better"),
}


def _segmentation(kind: str, whose: str) -> tuple[Figure, ...]:
    return tuple(
        Figure(f"{kind}_{key}_{setting}", f"{name}, {kind}, {prompt}", unit, f"{meaning}; {whose}, mean of sites")
        for key, (name, unit, meaning) in _MEASURES.items()
        for setting, prompt in _PROMPTS.items()
    )


_SEGMENTATION = (
    *_segmentation("global", "the shared model"),
    Figure("worst_site_global.dice", "Worst site, global", "score", "lowest Dice of the shared model, true box"),
    *_segmentation("personal", "each site's own model at home"),
    Figure("worst_site.dice", "Worst site, personal", "score", "lowest Dice of a site's own model, true box"),
    Figure("balance", "Balance, (G\u00a0+\u00a0L)\u00a0/\u00a02", "score", "mean of both Dice, true box"),
)

FINAL: dict[Task, tuple[Figure, ...]] = {"classification": _CLASSIFICATION, "segmentation": _SEGMENTATION}
"""By task, of one chosen version; keys are relative to ``last`` or ``best``."""

ABLATION: dict[Task, tuple[Figure, ...]] = {
    "classification": (
        Figure("accuracy", "Accuracy", "percent", "all test cases of the training sites pooled"),
        Figure("auroc", "AUROC", "score", "computed per site, then averaged"),
    ),
    "segmentation": tuple(
        Figure(f"dice_{setting}", f"Dice, {prompt}", "score", "mean of sites") for setting, prompt in _PROMPTS.items()
    ),
}
"""By task, of Fed-GPL with the query replaced by its mean; keys are relative to ``last.mean_query``."""

_WITHIN = "the first round from which on {} stays within 0.01 of the last version's"
_CLASSIFICATION_ROUNDS = (
    Figure("global_accuracy", "Mean global accuracy", "percent", "G, averaged over rounds"),
    Figure("personal_accuracy", "Mean personal accuracy", "percent", "participants' models right after training"),
    Figure("worst_accuracy", "Mean worst participant", "percent", "lowest participant of each round, averaged"),
    Figure("balance", "Balance", "percent", "mean of the two means above"),
    Figure("nfr_global", "Negative flip rate, global", "percent", "cases right before and wrong now"),
    Figure("nfr_personal", "Negative flip rate, personal", "percent", "the same for the sites' own models"),
    Figure("bwt", "Backward transfer", "signed", "change since a site last trained; below 0 is forgetting"),
    Figure(
        "consistency_global", "Consistency, global (our\u00a0reading)", "score", "1 − mean relative drop from peaks"
    ),
    Figure(
        "consistency_personal", "Consistency, personal (our\u00a0reading)", "score", "the same for sites' own models"
    ),
    Figure("rounds_to_within_1_percent", "Rounds to within 1\u00a0%", "rounds", _WITHIN.format("global AUROC")),
)
_SEGMENTATION_ROUNDS = (
    Figure("global_dice", "Mean global Dice", "score", "true box, averaged over rounds"),
    Figure("personal_dice", "Mean personal Dice", "score", "participants' models right after training"),
    Figure("worst_dice", "Mean worst participant", "score", "lowest participant of each round, averaged"),
    Figure("balance", "Balance", "score", "mean of the first two means"),
    Figure("rounds_to_within_1_percent", "Rounds to within 1\u00a0%", "rounds", _WITHIN.format("global Dice")),
)

OVER_ROUNDS: dict[Task, tuple[Figure, ...]] = {
    "classification": _CLASSIFICATION_ROUNDS,
    "segmentation": _SEGMENTATION_ROUNDS,
}
"""By task, means over rounds; keys are relative to ``over_rounds``."""

FIGURES: dict[Task, dict[str, Figure]] = {
    task: {
        **{f"{when}.{figure.key}": figure for when in ("last", "best") for figure in FINAL[task]},
        **{f"over_rounds.{figure.key}": figure for figure in OVER_ROUNDS[task]},
        **{f"last.mean_query.{figure.key}": figure for figure in ABLATION[task]},
    }
    for task in TASKS
}
"""By task and dotted path in the summary."""


def show(value: float | None, unit: Unit) -> str:
    """A value as text: fractions as per cent with one decimal, scores with three, signed ones with their sign.

    Rounds have a decimal only where they need one; distances have two, and their unit stands in the heading.
    """
    if value is None:
        return UNDEFINED
    if unit == "percent":
        return f"{100 * value:.1f} %"
    if unit == "rounds":
        return f"{value:.1f}".removesuffix(".0")
    if unit == "distance":
        return f"{value:.2f}"
    return f"{value:+.3f}".replace("-", "−") if unit == "signed" else f"{value:.3f}"


def show_spread(mean: float | None, sd: float | None, unit: Unit) -> str:
    """Mean and sample standard deviation over seeds as text; the mean alone where there is no spread."""
    if mean is None or sd is None:
        return show(mean, unit)
    if unit == "percent":
        return f"{100 * mean:.1f} ± {100 * sd:.1f} %"
    if unit in ("rounds", "distance"):
        return f"{show(mean, unit)} ± {show(sd, unit)}"
    return f"{show(mean, unit)} ± {sd:.3f}"
