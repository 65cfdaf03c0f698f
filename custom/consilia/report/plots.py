"""The plots of a single run's report. Each function returns an SVG as a ``data:`` address, or None without data.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; line style or marker always differs as well.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

from matplotlib import style as styles
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from consilia.core.task import Task
from consilia.evaluation.rounds import Series
from consilia.record.metrics import PREDICTIONS, PRIMARY, show

BLUE, ORANGE, GREEN, PINK, AMBER, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
INK, GREY, PALE = "#222222", "#6b6b6b", "#d9d9d9"
WIDTH = 9.0  # inches: the width of the page's text column

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "consilia",  # element ids must not vary between renderings
    "svg.fonttype": "path",
    "text.parse_math": False,  # a "$" in a site's name is not mathematics
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "grid.color": "#ececec",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
}

Parameters = ParamSpec("Parameters")


def drawn(draw: Callable[Parameters, Figure | None]) -> Callable[Parameters, str | None]:
    """Run a drawing function in the private style and turn its figure into a ``data:image/svg+xml`` address."""

    @wraps(draw)
    def as_address(*args: Parameters.args, **kwargs: Parameters.kwargs) -> str | None:
        with styles.context(["default", STYLE]):  # "default": whatever the user's matplotlibrc says
            figure = draw(*args, **kwargs)
            if figure is None:
                return None
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None})
        # The metadata block holds nothing but the drawing program's address.
        text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
        return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()

    return as_address


PRIMARY_TEXT: dict[Task, str] = {"classification": "accuracy", "segmentation": "Dice", "survival": "C-index"}
"""By task, its primary metric within a sentence."""


def percent_axis(axes: Axes, which: str = "y") -> None:
    """Show fractions as per cent on one axis."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


def primary_axis(axes: Axes, task: Task, which: str = "y", suffix: str = "") -> None:
    """The task's primary metric on one axis, accuracy in per cent, with its name and ``suffix``."""
    if PREDICTIONS.get(task, PRIMARY[task]).unit == "percent":
        percent_axis(axes, which)
    axes.set(**{f"{which}label": PRIMARY_TEXT[task] + suffix})


def round_axis(axes: Axes) -> None:
    """Whole rounds on the horizontal axis."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("round")


def line(axes: Axes, series: Series, name: str, *, marker: str = "o", **style: Any) -> bool:
    """Draw one metric over the versions where it is defined; False if there is none."""
    points = [(version, value) for version, value in series[name].items() if value is not None]
    if points:
        # No more markers than can be told apart.
        every = max(1, len(points) // 25)
        axes.plot(*zip(*points, strict=True), marker=marker, markersize=4, markevery=every, linewidth=1.6, **style)
    return bool(points)


CURVES: dict[Task, tuple[tuple[str, dict[str, Any]], ...]] = {
    "classification": (
        ("global_accuracy", {"color": BLUE, "marker": "o", "label": "global model, test (G)"}),
        ("personal_accuracy", {"color": ORANGE, "marker": "D", "label": "personal models, test: mean (L)"}),
        ("worst_accuracy", {"color": ORANGE, "marker": "v", "ls": ":", "label": "personal models, test: lowest"}),
        ("validation_accuracy", {"color": GREY, "marker": "s", "ls": "--", "label": "global model, validation"}),
    ),
    "segmentation": (
        ("global_dice", {"color": BLUE, "marker": "o", "label": "global, true box"}),
        ("global_dice_jitter", {"color": SKY, "marker": "^", "ls": "-.", "label": "global, jittered box"}),
        ("global_dice_image", {"color": GREEN, "marker": "P", "ls": ":", "label": "global, whole image"}),
        ("personal_dice", {"color": ORANGE, "marker": "D", "label": "personal, true box: mean"}),
        ("worst_dice", {"color": ORANGE, "marker": "v", "ls": ":", "label": "personal, true box: lowest"}),
        ("validation_dice", {"color": GREY, "marker": "s", "ls": "--", "label": "global, true box, validation"}),
    ),
    "survival": (
        ("global_c_index", {"color": BLUE, "marker": "o", "label": "global model, test"}),
        ("personal_c_index", {"color": ORANGE, "marker": "D", "label": "personal models, test: mean"}),
        ("worst_c_index", {"color": ORANGE, "marker": "v", "ls": ":", "label": "personal models, test: lowest"}),
        ("validation_c_index", {"color": GREY, "marker": "s", "ls": "--", "label": "global model, validation"}),
    ),
}


@drawn
def curves(series: Series, chosen: Mapping[str, int], task: Task) -> Figure | None:
    """The primary metric per round, see ``CURVES``; vertical lines at the chosen versions."""
    many = len(CURVES[task]) > 4
    figure = Figure(figsize=(WIDTH, 3.9 if many else 3.6))
    axes = figure.add_subplot()
    found = [line(axes, series, name, **style) for name, style in CURVES[task]]
    if not any(found):
        return None
    at: dict[int, list[str]] = {}
    for name, version in chosen.items():
        at.setdefault(version, []).append(name)
    for version, names in at.items():
        axes.axvline(version, color=GREY, linewidth=0.9, linestyle=(0, (2, 3)), zorder=0)
        # The labels grow apart, since the two versions may be neighbours.
        side = "left" if version == max(at) and len(at) > 1 else "right"
        place: dict[str, Any] = {"xy": (version, 1), "xycoords": ("data", "axes fraction"), "ha": side, "va": "bottom"}
        axes.annotate(" and ".join(names), **place, fontsize=8, color=GREY)
    primary_axis(axes, task)
    round_axis(axes)
    columns = 3 if many else 4
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=8.5)
    return figure


@drawn
def site_bars(sites: Sequence[Mapping[str, Any]], task: Task) -> Figure | None:
    """Per site (``site``, ``test``, ``test_only``, ``global``, ``personal``): primary metric of both models."""
    if not any(row["global"] is not None or row["personal"] is not None for row in sites):
        return None
    crowded = len(sites) > 20
    unit = PREDICTIONS.get(task, PRIMARY[task]).unit
    figure = Figure(figsize=(WIDTH, 0.9 + len(sites) * (0.26 if crowded else 0.5)))
    axes = figure.add_subplot()
    # One kind of model alone (a baseline) is centred on its site.
    shift = 0.2 if all(any(row[key] is not None for row in sites) for key in ("global", "personal")) else 0.0
    for key, side, colour, hatch in (("global", -1, BLUE, ""), ("personal", 1, ORANGE, "///")):
        bars = [(place + side * shift, row[key]) for place, row in enumerate(sites) if row[key] is not None]
        if bars:
            places, values = zip(*bars, strict=True)
            drawn_bars = axes.barh(places, values, 0.38, color=colour, hatch=hatch, edgecolor="white", lw=0, label=key)
            if not crowded:
                axes.bar_label(drawn_bars, [show(value, unit) for value in values], padding=3, fontsize=8)
    names = [f"{row['site']}{' (test only)' if row['test_only'] else ''}, {row['test']} cases" for row in sites]
    axes.set_yticks(range(len(sites)), names)
    axes.set_ylim(len(sites) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.grid(axis="y", visible=False)
    primary_axis(axes, task, "x", " on the site's test cases" + (", true box" if task == "segmentation" else ""))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, [f"{label} model" for label in labels], loc="outside lower center", ncols=2, fontsize=8.5)
    return figure


def plane_axes(figure: Figure, points: Sequence[tuple[float, float]]) -> Axes:
    """The plane of G (across) and L (up) around ``points``, with lines of equal balance."""
    axes = figure.add_subplot()
    low_x, high_x = _window([x for x, _ in points])
    low_y, high_y = _window([y for _, y in points])
    axes.set_xlim(low_x, high_x)
    axes.set_ylim(low_y, high_y)
    for twentieth in range(1, 40):
        total = twentieth / 20  # G + L, that is balance in steps of 2.5 points
        axes.plot([total - 2, total + 1], [2, -1], color=PALE, linewidth=0.7, zorder=0, scalex=False, scaley=False)
    axes.grid(visible=False)
    percent_axis(axes, "x")
    percent_axis(axes, "y")
    axes.set_xlabel("generalisation: global accuracy G →")
    axes.set_ylabel("personalisation: mean personal accuracy L →")
    return axes


def _window(values: Sequence[float]) -> tuple[float, float]:
    """Axis limits around values, at least 10 points wide, so that a hair's breadth does not look like a gulf."""
    low, high = min(values), max(values)
    margin = max(0.15 * (high - low), (0.10 - (high - low)) / 2, 0.02)
    return low - margin, min(high + margin, 1.01)  # nothing is above 100 %


@drawn
def plane(series: Series, finals: Mapping[str, tuple[float, float]]) -> Figure | None:
    """The way through the plane round by round, and the final models (name -> (G, L))."""
    path = zip(series["global_accuracy"].values(), series["personal_accuracy"].values(), strict=True)
    points = [(x, y) for x, y in path if x is not None and y is not None]
    if not points and not finals:
        return None
    figure = Figure(figsize=(5.6, 4.4))
    axes = plane_axes(figure, [*points, *finals.values()])
    if points:
        axes.plot(*zip(*points, strict=True), color=SKY, marker=".", linewidth=1, label="rounds (participants' L)")
        axes.annotate("first", points[0], textcoords="offset points", xytext=(5, -9), fontsize=8, color=GREY)
    markers = (("o", BLUE), ("D", ORANGE))
    for (name, point), (marker, colour) in zip(finals.items(), markers, strict=False):
        axes.plot(*point, marker=marker, color=colour, markersize=9, linestyle="", label=f"final: {name}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8.5)
    return figure


@drawn
def forgetting(series: Series) -> Figure | None:
    """Negative flip rates and backward transfer per round, side by side."""
    figure = Figure(figsize=(WIDTH, 3.0))
    left, right = figure.subplots(1, 2)
    found = [
        line(left, series, "nfr_global", color=BLUE, marker="o", label="global model"),
        line(left, series, "nfr_personal", color=ORANGE, marker="D", ls="--", label="personal models"),
        line(right, series, "bwt", color=GREEN, marker="o"),
    ]
    if not any(found):
        return None
    left.set_title("Negative flip rate")
    left.set_ylim(bottom=0)
    percent_axis(left)
    left.set_ylabel("share of test cases")
    right.set_ylabel("change of accuracy")
    right.set_title("Backward transfer (below 0: forgetting)")
    right.axhline(0, color=GREY, linewidth=0.9)
    for axes in (left, right):
        round_axis(axes)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=8.5)
    return figure


@drawn
def weights(sites: Sequence[str], panels: Mapping[str, Mapping[str, Mapping[int, float]]]) -> Figure | None:
    """Heat maps site x round, one per panel (title -> site -> round -> value); white where the site did not train."""
    import numpy as np

    panels = {title: values for title, values in panels.items() if values}
    if not panels:
        return None
    # Starting at pale blue, not white: white means "did not train".
    blues = LinearSegmentedColormap.from_list("pale", ["#d6e6f4", "#4a98c9", "#08306b"])
    last = max(number for values in panels.values() for by_round in values.values() for number in by_round)
    figure = Figure(figsize=(WIDTH, 1.5 + 0.24 * len(sites)))
    for place, (title, values) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), place + 1)
        grid = np.full((len(sites), last), np.nan)
        for row, site in enumerate(sites):
            for number, value in values.get(site, {}).items():
                grid[row, number - 1] = value
        # Thousands of vector cells would make the file tens of times larger than a picture of them.
        image = axes.pcolormesh(grid, cmap=blues, vmin=0, vmax=1, rasterized=grid.size > 1000)
        axes.set_title(title)
        axes.grid(visible=False)
        axes.set_ylim(len(sites), 0)
        axes.set_yticks([row + 0.5 for row in range(len(sites))], sites if place == 0 else [""] * len(sites))
        step = max(1, round(last / 6))
        shown = list(range(1, last + 1, step))
        axes.set_xticks([number - 0.5 for number in shown], [str(number) for number in shown])
        axes.tick_params(length=0)
        axes.set_xlabel("round")
        figure.colorbar(image, ax=axes, orientation="horizontal", fraction=0.06, aspect=30)
    return figure
