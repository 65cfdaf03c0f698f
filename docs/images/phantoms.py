"""Draws phantoms.png: every kind of phantom, first and last class, with the outline of its mask. No patient's image.

python docs/images/phantoms.py
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from consilia.simulation.synthetic import KINDS, draw_phantoms

OUT = Path(__file__).with_name("phantoms.png")


def main() -> None:
    """One column per kind; the two rows are two classes, seen by two scanners."""
    figure = Figure(figsize=(2 * len(KINDS), 4.4), layout="constrained")
    axes = figure.subplots(2, len(KINDS))
    for column, kind in enumerate(KINDS.values()):
        for row, label in enumerate((0, len(kind.classes) - 1)):
            weights = np.eye(len(kind.classes))[label].tolist()
            drawn = draw_phantoms(kind.name, 1, seed=3 + row, scanner=1 + row, class_weights=weights)
            place = axes[row, column]
            place.imshow(drawn.images[0], cmap="gray", vmin=0, vmax=255)
            place.contour(drawn.masks[0] > 0, levels=[0.5], colors="#56b4e9", linewidths=1.2)
            place.set_title(kind.classes[label], fontsize=9)
            place.axis("off")
        below = f"{kind.name}: {kind.structure.replace('_', ' ')}"
        axes[1, column].text(
            0.5, -0.05, below, transform=axes[1, column].transAxes, ha="center", va="top", weight="bold"
        )
    figure.suptitle("Synthetic images, drawn from formulas: no patient", fontsize=10)
    png = BytesIO()
    figure.savefig(png, dpi=90)
    Image.open(png).convert("RGB").quantize(128, dither=Image.Dither.FLOYDSTEINBERG).save(OUT, optimize=True)


if __name__ == "__main__":
    main()
