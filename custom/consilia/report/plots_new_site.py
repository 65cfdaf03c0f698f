"""The plot of what labelled cases are worth at a new site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from consilia.record.study_unseen import NewSiteScore
from consilia.report.plots import WIDTH, drawn, percent_axis
from consilia.report.plots_compare import Styles

ACROSS = 3


@drawn
def gained(
    panels: Mapping[str, Mapping[str, Mapping[str, NewSiteScore]]],
    numbers: Sequence[str],
    styles: Styles,
    heading: str,
    *,
    percent: bool,
) -> Figure | None:
    """A metric against the number of labelled cases, a panel per site (title -> method -> number -> score)."""
    panels = {title: methods for title, methods in panels.items() if any(methods.values())}
    if not panels or len(numbers) < 2:
        return None
    columns = min(ACROSS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH, 0.9 + 2.6 * rows))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    handles: dict[str, Any] = {}
    for axes, (title, methods) in zip(grid.flat, panels.items(), strict=False):
        spread = 0.3 / max(1, len(methods) - 1)
        for place, (method, scores) in enumerate(methods.items()):
            offset = (place - (len(methods) - 1) / 2) * spread
            shown = [
                (x + offset, one.value, one.low, one.high)
                for x, number in enumerate(numbers)
                if (one := scores.get(number)) is not None and one.value is not None
            ]
            xs, ys = [x for x, *_ in shown], [y for _, y, *_ in shown]
            (line,) = axes.plot(xs, ys, linewidth=1.4, markersize=5, **styles[method])
            handles.setdefault(method, line)
            for x, _, low, high in shown:
                if low is not None and high is not None:
                    axes.plot([x, x], [low, high], color=styles[method]["color"], linewidth=0.8, alpha=0.7)
        axes.set_title(title)
        axes.set_xticks(range(len(numbers)), numbers)
        if percent:
            percent_axis(axes)
    for place, axes in enumerate(grid.flat):
        axes.set_visible(place < len(panels))
        axes.tick_params(labelbottom=place + columns >= len(panels))
    figure.supxlabel("labelled cases of the new site", fontsize=9)
    figure.supylabel(heading, fontsize=9)
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=4, fontsize=8.5)
    return figure
