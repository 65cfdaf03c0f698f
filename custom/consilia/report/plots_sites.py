"""The plots of a classification with a small panel per site: ROC curves and reliability."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from consilia.record.schema import Curves
from consilia.report.plots import BLUE, ORANGE, PALE, WIDTH, drawn

ACROSS = 4
MOST = 24
"""Sites with a panel; more would be too small to read."""

STYLES: Mapping[str, Mapping[str, Any]] = {
    "global": {"color": BLUE, "marker": "o", "linestyle": "-"},
    "personal": {"color": ORANGE, "marker": "D", "linestyle": "--"},
}


class SiteCurves(NamedTuple):
    """A panel: its title, and by label of a line the curves and how they are drawn."""

    title: str
    lines: Sequence[tuple[str, Mapping[str, Any], Curves]]


@drawn
def roc(panels: Sequence[SiteCurves]) -> Figure | None:
    """Sensitivity against the rate of false alarms, a panel per site."""
    return _panels(_with(panels, "roc"), _draw_roc, "false alarms (1 − specificity)", "sensitivity")


@drawn
def reliability(panels: Sequence[SiteCurves], of: str) -> Figure | None:
    """What is observed among cases of like probability ``of`` a class, a panel per site.

    The larger a mark, the more cases.
    """
    return _panels(_with(panels, "reliability"), _draw_reliability, f"probability of {of}", f"share of {of}")


def _with(panels: Sequence[SiteCurves], name: str) -> list[SiteCurves]:
    found = [SiteCurves(panel.title, [line for line in panel.lines if getattr(line[2], name)]) for panel in panels]
    return [panel for panel in found if panel.lines][:MOST]


def _panels(
    panels: Sequence[SiteCurves], draw: Callable[[Axes, Curves, Mapping[str, Any]], Any], across: str, up: str
) -> Figure | None:
    if not panels:
        return None
    columns = min(ACROSS, max(len(panels), 2))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH, 0.7 + 2.35 * rows))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    handles: dict[str, Any] = {}
    for axes, panel in zip(grid.flat, panels, strict=False):
        axes.plot([0, 1], [0, 1], color=PALE, linewidth=1, zorder=0)
        for label, style, curves in panel.lines:
            handles.setdefault(label, draw(axes, curves, style))
        axes.set_title(panel.title, fontsize=8.5)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set_xticks([0, 0.5, 1])
        axes.set_yticks([0, 0.5, 1])
    for place, axes in enumerate(grid.flat):
        axes.set_visible(place < len(panels))
        axes.tick_params(labelbottom=place + columns >= len(panels))  # nothing is below
    figure.supxlabel(across, fontsize=9)
    figure.supylabel(up, fontsize=9)
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=4, fontsize=8.5)
    return figure


def _draw_roc(axes: Axes, curves: Curves, style: Mapping[str, Any]) -> Any:
    rates = np.linspace(0, 1, len(curves.roc))
    # A curve begins at the corner, whatever the sensitivity without any false alarm is.
    (drawn_line,) = axes.plot([0, *rates], [0, *curves.roc], linewidth=1.5, **{**style, "marker": ""})
    return drawn_line


def _draw_reliability(axes: Axes, curves: Curves, style: Mapping[str, Any]) -> Any:
    bins = [
        (one.count, one.confidence, one.observed)
        for one in curves.reliability
        if one.confidence is not None and one.observed is not None
    ]
    most = max((count for count, _, _ in bins), default=1)
    confidence, observed = [place for _, place, _ in bins], [share for _, _, share in bins]
    (line,) = axes.plot(confidence, observed, linewidth=1.2, markersize=4, **style)
    axes.scatter(
        confidence,
        observed,
        s=[12 + 70 * count / most for count, _, _ in bins],
        color=style["color"],
        marker=style["marker"],
        alpha=0.55,
        linewidths=0,
    )
    return line
