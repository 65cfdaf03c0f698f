"""The plots that set several methods side by side; each method keeps its colour and marker throughout."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from consilia.core.task import Task
from consilia.evaluation.rounds import Series
from consilia.report.plots import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PINK,
    SKY,
    WIDTH,
    drawn,
    plane_axes,
    primary_axis,
    round_axis,
)

PANELS: dict[Task, tuple[tuple[str, str, str], ...]] = {
    "classification": (
        ("global_accuracy", "Global model: accuracy G", "global"),
        ("personal_accuracy", "Personal models: mean accuracy L", "personal"),
    ),
    "segmentation": (
        ("global_dice", "Global model: Dice, true box", "global"),
        ("global_dice_image", "Global model: Dice, whole image", "global_image"),
    ),
    "survival": (
        ("global_c_index", "Global model: C-index", "global"),
        ("personal_c_index", "Personal models: mean C-index", "personal"),
    ),
}
"""By task, key of the round's metric, title, and key of the baselines' level."""

STYLES = (
    {"color": BLUE, "marker": "o", "linestyle": "-"},
    {"color": ORANGE, "marker": "D", "linestyle": "--"},
    {"color": GREEN, "marker": "s", "linestyle": "-."},
    {"color": PINK, "marker": "^", "linestyle": ":"},
    {"color": AMBER, "marker": "v", "linestyle": (0, (5, 1))},
    {"color": SKY, "marker": "P", "linestyle": (0, (3, 1, 1, 1))},
    {"color": INK, "marker": "X", "linestyle": (0, (1, 1))},
)
_RULE: dict[str, Any] = {"color": "#ececec", "linewidth": 0.8, "zorder": 0}
BASELINE_LINES = ("-", "--", ":", "-.")

BASELINE_MARKS = ("x", "+", "1", "2", "3", "4")

SitePanels = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""Title -> label -> site -> value."""
Styles = Mapping[str, Mapping[str, Any]]
"""Label -> how it is drawn."""

Runs = Mapping[str, Sequence[Series]]  # label -> the round metrics of each seed


def style_of(place: int) -> dict[str, Any]:
    """Colour, marker and line of the method in this place (they repeat after seven)."""
    return dict(STYLES[place % len(STYLES)])


def styles_of(methods: Sequence[str], baselines: Sequence[str]) -> Styles:
    """The style of every label: methods in colour, baselines in grey."""
    grey = {
        label: {
            "color": GREY,
            "marker": BASELINE_MARKS[place % len(BASELINE_MARKS)],
            "linestyle": BASELINE_LINES[place % len(BASELINE_LINES)],
        }
        for place, label in enumerate(baselines)
    }
    return {label: style_of(place) for place, label in enumerate(methods)} | grey


def _band(runs: Sequence[Series], name: str) -> list[tuple[int, float, float]]:
    """(version, mean, sample sd over seeds) for each version at which any seed has the metric."""
    values: dict[int, list[float]] = {}
    for series in runs:
        for version, value in series[name].items():
            if value is not None:
                values.setdefault(version, []).append(value)
    return [(v, statistics.fmean(x), statistics.stdev(x) if len(x) > 1 else 0.0) for v, x in sorted(values.items())]


@drawn
def curves(runs: Runs, baselines: Mapping[str, Mapping[str, float | None]], task: Task) -> Figure | None:
    """Panels (``PANELS``) per round, mean and ± 1 sd over seeds; baselines (label -> level) as level lines.

    A panel without anything in it is left out.
    """
    levelled = {kind for levels in baselines.values() for kind, level in levels.items() if level is not None}
    panels = [
        panel
        for panel in PANELS[task]
        if panel[2] in levelled or any(_band(seeds, panel[0]) for seeds in runs.values())
    ]
    if not panels:
        return None
    figure = Figure(figsize=(WIDTH, 3.9))
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    for axes, (key, title, kind) in zip(grid, panels, strict=True):
        for place, (label, seeds) in enumerate(runs.items()):
            if band := _band(seeds, key):
                style = style_of(place)
                versions, means, sds = (list(column) for column in zip(*band, strict=True))
                step = max(1, len(versions) // 8)
                (handles[label],) = axes.plot(versions, means, linewidth=1.6, markersize=5, markevery=step, **style)
                low, high = ([m + sign * s for m, s in zip(means, sds, strict=True)] for sign in (-1, 1))
                axes.fill_between(versions, low, high, color=style["color"], alpha=0.15, linewidth=0)
        for place, (label, levels) in enumerate(baselines.items()):
            if levels.get(kind) is not None:
                dashes = BASELINE_LINES[place % len(BASELINE_LINES)]
                handles[label] = axes.axhline(levels[kind], color=GREY, linewidth=1.2, linestyle=dashes)
        axes.set_title(title)
        primary_axis(axes, task)
        round_axis(axes)
        axes.label_outer()
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8.5)
    return figure


@drawn
def plane(
    methods: Mapping[str, Mapping[str, Any]], baselines: Mapping[str, Mapping[str, float | None]]
) -> Figure | None:
    """One point per method (label -> ``global`` and ``personal``, each (mean, sd)), with ± 1 sd over seeds."""
    defined = {
        label: (point["global"], point["personal"])
        for label, point in methods.items()
        if point["global"][0] is not None and point["personal"][0] is not None
    }
    if not defined:
        return None
    figure = Figure(figsize=(6.4, 5.0))
    axes = plane_axes(figure, [(general[0], personal[0]) for general, personal in defined.values()])
    for place, label in enumerate(methods):
        if label in defined:
            (x, x_sd), (y, y_sd) = defined[label]
            style = style_of(place)
            axes.errorbar(
                x, y, xerr=x_sd, yerr=y_sd, fmt=style["marker"], color=style["color"], markersize=8, label=label
            )
    x_limits, y_limits = axes.get_xlim(), axes.get_ylim()
    for place, (label, levels) in enumerate(baselines.items()):
        dashes = BASELINE_LINES[place % len(BASELINE_LINES)]
        if levels["global"] is not None and x_limits[0] < levels["global"] < x_limits[1]:
            axes.axvline(levels["global"], color=GREY, linewidth=1, linestyle=dashes, label=f"{label}: G")
        if levels["personal"] is not None and y_limits[0] < levels["personal"] < y_limits[1]:
            axes.axhline(levels["personal"], color=GREY, linewidth=1, linestyle=dashes, label=f"{label}: L")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8.5)
    return figure


@drawn
def sites(names: Sequence[str], panels: SitePanels, styles: Styles, task: Task | None, label: str) -> Figure | None:
    """A mark per site (upwards) and label, in panels by title; those without any value are left out.

    ``task``: whose primary metric it is, for the axis; None: a fraction. ``label``: what stands below the axis.
    """
    shown = {
        title: values
        for title, values in panels.items()
        if any(value is not None for by_site in values.values() for value in by_site.values())
    }
    if not shown:
        return None
    figure = Figure(figsize=(WIDTH, 1.4 + 0.36 * len(names)))
    grid = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    for axes, (title, values) in zip(grid, shown.items(), strict=True):
        spread = 0.6 / max(1, len(values) - 1)  # marks of one site lie apart, so that equal values hide none
        for place, (name, by_site) in enumerate(values.items()):
            offset = (place - (len(values) - 1) / 2) * spread
            marks = [(value, row + offset) for row, site in enumerate(names) if (value := by_site[site]) is not None]
            if marks:
                style = {**styles[name], "linestyle": "", "markersize": 5.5}
                (handles[name],) = axes.plot(*zip(*marks, strict=True), **style)
        axes.set_title(title)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.hlines([row + 0.5 for row in range(len(names) - 1)], 0, 1, **_RULE, transform=axes.get_yaxis_transform())
        axes.grid(axis="y", visible=False)
        if task is not None:
            primary_axis(axes, task, "x")
        axes.set_xlabel(label)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8.5)
    return figure
