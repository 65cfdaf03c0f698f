"""Loss and AUROC per round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from consilia.report.over_rounds import Learning
from consilia.report.plots import BLUE, GREEN, GREY, ORANGE, WIDTH, drawn, line, round_axis

CURVES = (
    ("train", {"color": GREEN, "marker": "^", "ls": "-.", "label": "training cases, as reported by the sites"}),
    ("validation", {"color": GREY, "marker": "s", "ls": "--", "label": "global model, validation"}),
    ("test", {"color": BLUE, "marker": "o", "label": "global model, test"}),
    ("personal", {"color": ORANGE, "marker": "D", "ls": ":", "label": "personal models, test"}),
)


@drawn
def learning(curves: Learning, chosen: Mapping[str, int]) -> Figure | None:
    """Loss left, AUROC right; vertical lines at the chosen versions."""
    titles = {"loss": "Loss (mean cross-entropy)", "auroc": "AUROC, mean of sites"}
    kinds = [kind for kind in titles if any(len(curves.get(f"{name}_{kind}", ())) > 1 for name, _ in CURVES)]
    if not kinds:
        return None
    figure = Figure(figsize=(WIDTH, 3.4))
    grid = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axes, kind in zip(grid, kinds, strict=True):
        for name, style in CURVES:
            if curves.get(f"{name}_{kind}"):
                line(axes, curves, f"{name}_{kind}", **style)
        for version in set(chosen.values()):
            axes.axvline(version, color=GREY, linewidth=0.9, linestyle=(0, (2, 3)), zorder=0)
        axes.set_title(titles[kind])
        round_axis(axes)
    handles = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=8.5)
    return figure


@drawn
def compared(curves: Mapping[str, Learning], styles: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """Validation loss, test loss and AUROC of the global model of several methods."""
    titles = {"validation_loss": "Loss, validation", "test_loss": "Loss, test", "test_auroc": "AUROC, test"}
    shown = [name for name in titles if any(len(found.get(name, ())) > 1 for found in curves.values())]
    if not shown:
        return None
    figure = Figure(figsize=(WIDTH, 3.4))
    handles: dict[str, Any] = {}
    for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for label, found in curves.items():
            if found.get(name) and line(axes, found, name, **{**styles[label], "label": label}):
                handles[label] = axes.lines[-1]
        axes.set_title(titles[name])
        round_axis(axes)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8.5)
    return figure
