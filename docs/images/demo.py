"""Makes demo.png of the folder that `make demo` leaves: which digits each site has, and what the methods make of them.

python docs/images/demo.py runs/demo-fedkper

The left panel needs the sites' own labels, which no record has: it can be drawn because all sites are on this machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from matplotlib import style as styles
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from consilia.data.loading import load_site
from consilia.evaluation.summary import series
from consilia.record.files import load_record
from consilia.report.plots import BLUE, GREY, STYLE, percent_axis, round_axis
from consilia.report.plots_compare import style_of

OUT = Path(__file__).with_name("demo.png")
METHODS = ("fedavg", "fedkper")
LEVEL = "centralised"


def draw_labels(axes: Axes, run: Path) -> None:
    """A dot for every digit at every site, its area the number of cases."""
    for row, path in enumerate(sorted((run / "sites").glob("*/site.yaml"))):
        data = load_site(path, "digit")
        counts = sum(part.labels.bincount(minlength=10) for part in (data.train, data.validation, data.test))
        assert isinstance(counts, torch.Tensor)
        axes.scatter(range(10), [row + 1] * 10, s=counts.numpy() * 1.3, color=BLUE, linewidths=0)
    axes.invert_yaxis()
    axes.set(title="The digits that each site has", xlabel="digit", ylabel="site", xticks=range(10))


def draw_rounds(axes: Axes, run: Path) -> None:
    """Accuracy of the global model per round, and of the model that saw all cases in one place."""
    for place, method in enumerate(METHODS):
        values = global_accuracy(run, method)
        axes.plot(list(values), list(values.values()), label=method, linewidth=1.6, markersize=4.5, **style_of(place))
    (*_, level) = global_accuracy(run, LEVEL).values()
    axes.axhline(level, color=GREY, linewidth=1.2, linestyle="--", label=LEVEL)
    axes.set(title="Accuracy of the global model, test cases of all sites", ylim=(0, 1))
    percent_axis(axes)
    round_axis(axes)
    axes.legend(loc="lower right")


def global_accuracy(run: Path, method: str) -> dict[int, float]:
    """By version, of the run with seed 0."""
    record = load_record(run / f"{method}-seed0" / "result.json")
    return {version: value for version, value in series(record)["global_accuracy"].items() if value is not None}


def main(run: Path) -> None:
    """Both panels, side by side."""
    with styles.context(["default", STYLE]):
        figure = Figure(figsize=(9.0, 3.4))
        left, right = figure.subplots(1, 2, width_ratios=(2, 3))
        draw_labels(left, run)
        draw_rounds(right, run)
        figure.savefig(OUT, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
