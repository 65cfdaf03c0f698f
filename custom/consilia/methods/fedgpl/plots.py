"""The plot of Fed-GPL's generated prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from consilia.report.plots import GREY, INK, WIDTH, drawn, round_axis
from consilia.report.plots_compare import STYLES, style_of


@drawn
def prompt_diversity(by_site: Mapping[str, Mapping[int, float]], means: Mapping[int, float]) -> Figure | None:
    """Prompt diversity per round: one line per site (site -> round -> ratio), and their mean."""
    if not means:
        return None
    figure = Figure(figsize=(WIDTH, 3.3))
    axes = figure.add_subplot()
    for place, (site, ratios) in enumerate(sorted(by_site.items())):
        style: dict[str, Any] = style_of(place) if len(by_site) <= len(STYLES) else {"color": GREY, "linewidth": 0.7}
        axes.plot(*zip(*sorted(ratios.items()), strict=True), markersize=4, **{"linewidth": 1.2, **style}, label=site)
    axes.plot(*zip(*sorted(means.items()), strict=True), color=INK, linewidth=2.4, alpha=0.6, label="mean of sites")
    values = [value for ratios in by_site.values() for value in ratios.values()]
    # As initialised, the ratio may be a hundred thousandth; on a plain axis its growth would be all there is to see.
    if min(values) > 0 and max(values) / min(values) > 50:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel("prompt diversity")
    round_axis(axes)
    handles, labels = axes.get_legend_handles_labels()
    shown = slice(None) if len(by_site) <= len(STYLES) else slice(-1, None)
    figure.legend(handles[shown], labels[shown], loc="outside lower center", ncols=4, fontsize=8.5)
    return figure
