"""The figure of a site's own report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from consilia.report.plots import INK, WIDTH, drawn


@drawn
def confusion(matrices: Mapping[str, np.ndarray], class_names: Sequence[str]) -> Figure | None:
    """Confusion matrices (title -> counts, true class x answer (C, C)) side by side, shaded by share of the row."""
    if not matrices or not any(counts.sum() for counts in matrices.values()):
        return None
    classes = len(class_names)
    side = min(WIDTH / 2, 1.8 + 0.45 * classes)
    figure = Figure(figsize=(side * len(matrices), side))
    grid = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axes, (title, counts) in zip(grid, matrices.items(), strict=True):
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.1)
        for row, column in np.ndindex(classes, classes):
            colour = "white" if shares[row, column] > 0.6 else INK
            if counts[row, column] or row == column:
                axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8.5)
        axes.set_title(title.capitalize())
        axes.set_xticks(
            range(classes), class_names, rotation=0 if classes <= 3 else 45, ha="center" if classes <= 3 else "right"
        )
        axes.set_yticks(range(classes), class_names)
        axes.set_xlabel("the model's answer")
        axes.grid(visible=False)
        axes.tick_params(length=0)
    grid[0].set_ylabel("true class")
    return figure
