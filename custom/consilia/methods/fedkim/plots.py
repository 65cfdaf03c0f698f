"""The plots of knowledge injection: which experts serve which task, how the language model learns, and signals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from consilia.report.plots import BLUE, GREY, WIDTH, drawn, round_axis
from consilia.report.plots_compare import style_of

LABELLED = 16  # experts: with more the numbers no longer fit into the cells


@drawn
def routing(gates: Mapping[str, Sequence[float]], seen: int) -> Figure | None:
    """Heat map task x expert of the router's weights; a line under the first ``seen`` tasks. None below two experts."""
    experts = max((len(weights) for weights in gates.values()), default=0)
    if experts < 2:
        return None
    blues = LinearSegmentedColormap.from_list("pale", ["#f4f8fb", "#4a98c9", "#08306b"])
    figure = Figure(figsize=(WIDTH, 1.5 + 0.3 * len(gates)))
    axes = figure.add_subplot()
    top = max(value for weights in gates.values() for value in weights)
    image = axes.pcolormesh(list(gates.values()), cmap=blues, vmin=0, vmax=top, rasterized=experts * len(gates) > 1000)
    if experts <= LABELLED:
        for row, weights in enumerate(gates.values()):
            for column, value in enumerate(weights):
                ink = "white" if value > 0.55 * top else "black"
                place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.5, "color": ink}
                axes.text(column + 0.5, row + 0.5, f"{value:.2f}", **place)
    if 0 < seen < len(gates):
        axes.axhline(seen, color=GREY, linewidth=1.6)
    axes.grid(visible=False)
    axes.set_ylim(len(gates), 0)
    axes.set_yticks([row + 0.5 for row in range(len(gates))], list(gates))
    step = max(1, round(experts / 16))
    axes.set_xticks([column + 0.5 for column in range(0, experts, step)], [str(n + 1) for n in range(0, experts, step)])
    axes.tick_params(length=0)
    axes.set_xlabel("expert")
    figure.colorbar(image, ax=axes, fraction=0.03)
    return figure


@drawn
def learning(rounds: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> Figure | None:
    """Per round and task: AUROC on the server's validation cases (left), and mean loss of the injection (right)."""
    figure = Figure(figsize=(WIDTH, 3.6))
    left, right = figure.subplots(1, 2)
    handles: dict[str, Any] = {}
    for place, task in enumerate(tasks):
        style = {**style_of(place), "markersize": 4, "linewidth": 1.4}
        known = [(part["round"], part["validation"].get(task, {}).get("auroc")) for part in rounds]
        areas = [(number, value) for number, value in known if value is not None]
        losses = [(part["round"], part["loss"][task]) for part in rounds if task in part["loss"]]
        for axes, points in ((left, areas), (right, losses)):
            if points:
                (handles[task],) = axes.plot(*zip(*points, strict=True), **style)
    if not handles:
        return None
    left.set_title("Validation AUROC of the language model")
    left.set_ylabel("AUROC")
    left.axhline(0.5, color=GREY, linewidth=0.9, linestyle=(0, (2, 3)))
    right.set_title("Loss of the injection")
    right.set_ylabel("nats per answer token")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        round_axis(axes)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8.5)
    return figure


@drawn
def leads(signal: NDArray[Any]) -> Figure | None:
    """A small drawing of a signal (leads, samples): one lead below the other, all on one scale."""
    figure = Figure(figsize=(4.2, 0.5 + 0.26 * len(signal)))
    axes = figure.add_subplot()
    centred = signal - np.median(signal, axis=1, keepdims=True)
    step = max(float(np.quantile(np.abs(centred), 0.995)) * 1.4, 1e-9)
    for place, lead in enumerate(centred):
        axes.plot(lead - place * step, color=BLUE, linewidth=0.6, rasterized=signal.size > 4000)
    axes.set_axis_off()
    return figure
