"""The plots of a study, made from its result. Each returns an SVG as a ``data:`` address, or None without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from consilia.record.study_result import Contrast, CurvePoint, Score
from consilia.report.plots import BLUE, GREY, INK, ORANGE, WIDTH, drawn, percent_axis, round_axis
from consilia.report.plots_compare import Styles

COLOURS = {"confirmed": BLUE, "refuted": ORANGE, "equivalent": INK, "not decided": GREY}
Point = tuple[Score, Score]
"""A method's score of the global and of the personal models."""


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The labels of points (x, y), more is better, that no other point equals or exceeds in both and exceeds in one.

    In the order of x.
    """
    front = [
        label
        for label, (x, y) in points.items()
        if not any(a >= x and b >= y and (a > x or b > y) for a, b in points.values())
    ]
    return sorted(front, key=lambda label: (points[label][0], -points[label][1]))


@drawn
def plane(points: Mapping[str, Point], styles: Styles, heading: str, *, percent: bool, lower: bool) -> Figure | None:
    """Generalisation (x, the global model's metric) and personalisation (y, the personal models'), with 95 % intervals.

    The Pareto front is drawn as a line through its points. ``lower``: lower is better.
    """
    centres = {
        label: (x.value, y.value) for label, (x, y) in points.items() if x.value is not None and y.value is not None
    }
    if not centres:
        return None
    figure = Figure(figsize=(7.4, 5.2))
    axes = figure.add_subplot()
    for label, (x, y) in centres.items():
        style = styles[label]
        errors: dict[str, Any] = {"xerr": _arms(points[label][0]), "yerr": _arms(points[label][1])}
        axes.errorbar(
            x, y, **errors, fmt=style["marker"], color=style["color"], markersize=8, elinewidth=1, label=label
        )
    sign = -1 if lower else 1
    front = pareto_front({label: (sign * x, sign * y) for label, (x, y) in centres.items()})
    if len(centres) > 1:
        line = [centres[label] for label in front]
        axes.plot(*zip(*line, strict=True), color=GREY, linewidth=6, alpha=0.25, zorder=0, label="Pareto front")
        for label in front:
            axes.plot(*centres[label], "o", markersize=15, fillstyle="none", color=GREY, zorder=0)
    for which in ("x", "y") if percent else ():
        percent_axis(axes, which)
    axes.set_xlabel(f"generalisation: {heading}, global model")
    axes.set_ylabel(f"personalisation: {heading}, personal models")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8.5)
    return figure


def _arms(score: Score) -> list[list[float]] | None:
    """The interval as lengths below and above; a value outside its interval has an arm on one side only."""
    if score.value is None or score.low is None or score.high is None:
        return None
    return [[max(0.0, score.value - score.low)], [max(0.0, score.high - score.value)]]


@drawn
def curves(points: Sequence[CurvePoint], styles: Styles, heading: str, *, percent: bool) -> Figure | None:
    """A metric against rounds (left) and against bytes sent and received by then (right); mean and one sd over runs."""
    by_method: dict[str, list[CurvePoint]] = {}
    for point in points:
        by_method.setdefault(point.method, []).append(point)
    if not any(len(found) > 1 for found in by_method.values()):
        return None
    costed = any(point.traffic is not None for point in points)
    figure = Figure(figsize=(WIDTH, 3.9))
    panels = figure.subplots(1, 2 if costed else 1, sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    for axes, by_traffic in zip(panels, (False, True), strict=False):
        for label, found in by_method.items():
            if line := _curve(axes, found, styles[label], by_traffic):
                handles[label] = line
        round_axis(axes)
        if by_traffic:
            axes.xaxis.set_major_locator(_plain_locator())
            axes.set_xlabel("megabytes per site, sent and received")
        if percent:
            percent_axis(axes)
    panels[0].set_ylabel(heading)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8.5)
    return figure


def _curve(axes: Axes, points: Sequence[CurvePoint], style: Mapping[str, Any], by_traffic: bool) -> Any:
    shown = sorted((p for p in points if not by_traffic or p.traffic is not None), key=lambda point: point.version)
    if not shown:
        return None
    xs = [(point.traffic or 0.0) / 1e6 if by_traffic else point.version for point in shown]
    step = max(1, len(shown) // 8)
    (line,) = axes.plot(xs, [point.value for point in shown], linewidth=1.6, markersize=5, markevery=step, **style)
    low, high = ([point.value + sign * (point.sd or 0.0) for point in shown] for sign in (-1, 1))
    axes.fill_between(xs, low, high, color=style["color"], alpha=0.12, linewidth=0)
    return line


def _plain_locator() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(6)


@drawn
def verdicts(contrasts: Sequence[Contrast]) -> Figure | None:
    """The claims' differences with 95 % intervals, a row each; the line is no difference."""
    shown = [
        (one, one.value, one.low, one.high)
        for one in contrasts
        if one.value is not None and one.low is not None and one.high is not None
    ]
    if not shown:
        return None
    figure = Figure(figsize=(WIDTH, 1.1 + 0.4 * len(shown)))
    axes = figure.add_subplot()
    seen: set[str] = set()
    for row, (one, value, low, high) in enumerate(shown):
        colour = COLOURS[one.verdict]
        label = None if one.verdict in seen else one.verdict
        seen.add(one.verdict)
        axes.plot([low, high], [row, row], color=colour, linewidth=2)
        axes.plot(value, row, "o", color=colour, markersize=6, label=label)
        if one.least:
            axes.plot(one.least, row, "|", color=INK, markersize=12)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(shown)), [f"{one.name} ({one.metric})" for one, *_ in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("difference; to the right the first method is better")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8.5)
    return figure


@drawn
def by_site(
    sites: Sequence[str],
    panels: Mapping[str, Mapping[str, Mapping[str, Score]]],
    styles: Styles,
    heading: str,
    *,
    percent: bool,
) -> Figure | None:
    """A mark with its interval per site and method, in panels (title -> label -> site -> score)."""
    panels = {title: methods for title, methods in panels.items() if any(methods.values())}
    if not panels:
        return None
    count = max(len(methods) for methods in panels.values())
    figure = Figure(figsize=(WIDTH, 1.4 + max(0.36, 0.13 * count) * len(sites)))
    grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    for axes, (title, methods) in zip(grid, panels.items(), strict=True):
        spread = 0.7 / max(1, len(methods) - 1)
        for place, (label, found) in enumerate(methods.items()):
            offset = (place - (len(methods) - 1) / 2) * spread
            style: dict[str, Any] = {"color": styles[label]["color"], "fmt": styles[label]["marker"]}
            for row, site in enumerate(sites):
                score = found.get(site)
                if score is not None and score.value is not None:
                    handles[label] = axes.errorbar(
                        score.value, row + offset, xerr=_arms(score), markersize=4.5, elinewidth=0.8, **style
                    )
        axes.set_title(title)
        axes.set_yticks(range(len(sites)), sites)
        edges = [row + 0.5 for row in range(len(sites) - 1)]
        axes.hlines(edges, 0, 1, color=GREY, linewidth=0.6, transform=axes.get_yaxis_transform())
        axes.set_ylim(len(sites) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        if percent:
            percent_axis(axes, "x")
        axes.set_xlabel(heading)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8.5)
    return figure
