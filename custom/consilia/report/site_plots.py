"""The plots of a site's own report: ROC and reliability curves, the spread of Dice over cases, Kaplan-Meier curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from consilia.core.plain import plain
from consilia.evaluation.calibration import BINS
from consilia.evaluation.calibration import reliability as reliability_bins
from consilia.evaluation.roc import roc_curve
from consilia.report.plots import AMBER, BLUE, GREEN, GREY, ORANGE, PINK, SKY, drawn, percent_axis
from consilia.report.site_answers import Answers
from consilia.report.site_survival import GROUPS, RiskGroups

SIDE = 4.4  # inches: two beside each other on a desk, one below the other on a phone
LOOKS = (
    (BLUE, "-", "o"),
    (ORANGE, "--", "D"),
    (GREEN, "-.", "s"),
    (PINK, ":", "^"),
    (AMBER, "-", "v"),
    (SKY, "--", "P"),
)


@drawn
def roc(models: Sequence[Answers]) -> Figure | None:
    """Every threshold's sensitivity against its false-positive rate; a marker at the model's own threshold."""
    usable = [
        one for one in models if one.classes == 2 and bool(one.finite.all()) and len(set(one.labels.tolist())) == 2
    ]
    if not usable:
        return None
    figure = Figure(figsize=(SIDE, SIDE))
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle=(0, (2, 3)))
    for place, one in enumerate(usable):
        colour, dashes, marker = LOOKS[place % len(LOOKS)]
        # The difference of the logits has the order of the probabilities, without rounding to 1.
        across, up, _ = roc_curve(one.labels.numpy(), (one.logits[:, 1].double() - one.logits[:, 0].double()).numpy())
        axes.plot(across, up, color=colour, linestyle=dashes, linewidth=1.6, label=f"{plain(one.name)} model")
        (cleared, alarms), (missed, found) = one.confusion.tolist()
        point = (alarms / (alarms + cleared), found / (found + missed))
        axes.plot(*point, color=colour, marker=marker, markersize=7, linestyle="", markeredgecolor="white")
    _square(axes, "false alarms: share of the negative cases", "found: share of the positive cases")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8.5)
    return figure


@drawn
def reliability(models: Sequence[Answers]) -> Figure | None:
    """What a model said against what was so, in ten bins of probability; below, how many cases are in each."""
    usable = [one for one in models if bool(one.finite.any())]
    if not usable:
        return None
    figure = Figure(figsize=(SIDE, SIDE))
    axes, below = figure.subplots(2, 1, height_ratios=(5, 1), sharex=True)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle=(0, (2, 3)))
    for place, one in enumerate(usable):
        colour, dashes, marker = LOOKS[place % len(LOOKS)]
        bins = [part for part in reliability_bins(*one.confidences) if part["count"]]
        counts, means, shares = (np.array([part[key] for part in bins]) for key in ("count", "confidence", "observed"))
        places = np.minimum((means * BINS).astype(int), BINS - 1)
        axes.plot(means, shares, color=colour, linestyle=dashes, linewidth=0.9, alpha=0.6)
        # The area of a marker is the number of cases behind it.
        area = 12 + 160 * counts / counts.max()
        axes.scatter(
            means, shares, area, color=colour, marker=marker, lw=0, alpha=0.8, label=f"{plain(one.name)} model"
        )
        width = 0.8 / BINS / len(usable)
        below.bar((places + 0.1) / BINS + (place + 0.5) * width, counts, width, color=colour, lw=0)
    two = usable[0].classes == 2
    said = "probability of the positive class that the model gave" if two else "probability of its answer"
    _square(axes, "", "share that was so" if two else "share that was right")
    below.set(xlabel=said, ylabel="cases")
    below.grid(axis="x", visible=False)
    percent_axis(below, "x")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8.5)
    return figure


def _square(axes: Axes, across: str, up: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=across, ylabel=up)
    for which in ("x", "y"):
        percent_axis(axes, which)


@drawn
def dice(spread: Mapping[str, Tensor]) -> Figure | None:
    """Dice of every case by row (model and what it was shown), as points around a box of the quartiles."""
    rows = {name: values[values.isfinite()].numpy() for name, values in spread.items()}
    rows = {name: values for name, values in rows.items() if len(values)}
    if not rows:
        return None
    figure = Figure(figsize=(1.2 * SIDE, 1.0 + 0.55 * len(rows)))
    axes = figure.add_subplot()
    draw = np.random.default_rng(0)  # only to keep points of equal Dice apart
    for place, (name, values) in enumerate(rows.items()):
        colour = GREY if name.startswith("ellipse") else LOOKS[0][0]
        axes.plot(
            values, place + draw.uniform(-0.25, 0.25, len(values)), ".", color=colour, alpha=0.7, markersize=6, mew=0
        )
    axes.boxplot(
        list(rows.values()),
        positions=range(len(rows)),
        orientation="horizontal",
        widths=0.62,
        showfliers=False,
        medianprops={"color": ORANGE, "linewidth": 2},
        whis=(10, 90),
    )
    axes.set_yticks(range(len(rows)), [plain(name).replace(", ", "\n") for name in rows])
    axes.set(xlim=(-0.02, 1.02), ylim=(len(rows) - 0.4, -0.6), xlabel="Dice of a case (1 = the true outline)")
    axes.grid(axis="y", visible=False)
    return figure


@drawn
def kaplan_meier(model: RiskGroups) -> Figure | None:
    """The share without the event over time in both halves of the cases, with a tick at every censored case."""
    if model.high is None:
        return None
    figure = Figure(figsize=(1.5 * SIDE, SIDE))
    axes = figure.add_subplot()
    for place, name in enumerate(GROUPS):
        colour, dashes, _ = LOOKS[place]
        (times, events), (steps, shares) = model.of_group(place), model.curve(place)
        # The last step holds until the last follow-up ends.
        across, up = np.append(steps, times.max()), np.append(shares, shares[-1])
        axes.step(across, up, where="post", color=colour, linestyle=dashes, linewidth=1.6, label=name)
        ended = times[~events]
        axes.plot(ended, shares[np.searchsorted(steps, ended, side="right") - 1], "|", color=colour, markersize=7)
    axes.set(xlim=(0, None), ylim=(-0.02, 1.02), xlabel="time", ylabel="share without the event")
    percent_axis(axes)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8.5)
    return figure
