"""The figures that tables show: heading, unit and plain meaning of each, and how a value is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

UNDEFINED = "–"

Unit = Literal["percent", "score", "signed"]


@dataclass(frozen=True)
class Figure:
    """A figure of :func:`consilia.evaluation.summary.summarise`: ``key`` is its dotted path, e.g. ``last.balance``."""

    key: str
    heading: str
    unit: Unit
    meaning: str


# Of one chosen version; keys are relative to ``last`` or ``best``.
FINAL = (
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

# Means over rounds; keys are relative to ``over_rounds``.
OVER_ROUNDS = (
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
)

FIGURES = {
    **{f"{when}.{figure.key}": figure for when in ("last", "best") for figure in FINAL},
    **{f"over_rounds.{figure.key}": figure for figure in OVER_ROUNDS},
}


def show(value: float | None, unit: Unit) -> str:
    """A value as text: fractions as per cent with one decimal, scores with three, signed ones with their sign."""
    if value is None:
        return UNDEFINED
    if unit == "percent":
        return f"{100 * value:.1f} %"
    return f"{value:+.3f}".replace("-", "−") if unit == "signed" else f"{value:.3f}"


def show_spread(mean: float | None, sd: float | None, unit: Unit) -> str:
    """Mean and sample standard deviation over seeds as text; the mean alone where there is no spread."""
    if mean is None or sd is None:
        return show(mean, unit)
    if unit == "percent":
        return f"{100 * mean:.1f} ± {100 * sd:.1f} %"
    return f"{show(mean, unit)} ± {sd:.3f}"
