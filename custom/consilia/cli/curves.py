"""The global model round by round, as one line of bars per method: what a table of the last round cannot show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from rich import box
from rich.table import Table

from consilia.core.task import Task
from consilia.evaluation.compare import group_by_label
from consilia.evaluation.summary import series
from consilia.evaluation.tested import tested_on
from consilia.record.schema import Record

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 50  # bars in a line
KEYS: dict[Task, tuple[str, str]] = {
    "classification": ("global_accuracy", "accuracy"),
    "segmentation": ("global_dice", "Dice"),
    "survival": ("global_c_index", "C-index"),
}
"""By task, the metric of a round that is drawn, and what it is called."""


def round_curves(records: Sequence[Record]) -> Table | None:
    """A line per method with its lowest, highest and last value; None where no run has more than one round."""
    key, what = KEYS[records[0].run.task]
    curves = {label: _by_round(group, key) for label, group in group_by_label(records).items()}
    curves = {label: values for label, values in curves.items() if len(values) > 1}
    if not curves:
        return None
    low, high = (pick(value for values in curves.values() for value in values) for pick in (min, max))
    table = Table(
        title="; ".join(filter(None, (f"Global model, {what} in % after each round", tested_on(*records)))),
        caption=f"{BARS[0]} is {100 * low:.1f}, {BARS[-1]} is {100 * high:.1f}.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        min_width=84,
    )
    table.add_column("method", no_wrap=True)
    table.add_column(f"rounds 1 to {max(map(len, curves.values()))}", no_wrap=True)
    for heading in ("lowest", "highest", "last"):
        table.add_column(heading, justify="right")
    for label, values in curves.items():
        ends = (min(values), max(values), values[-1])
        table.add_row(label, bars(values, low, high), *(f"{100 * value:.1f}" for value in ends))
    return table


def bars(values: Sequence[float], low: float, high: float) -> str:
    """The values as bars between ``low`` and ``high``; beyond ``WIDTH`` values a bar is the mean of some neighbours."""
    step = math.ceil(len(values) / WIDTH)
    means = [fmean(values[start : start + step]) for start in range(0, len(values), step)]
    span = high - low or 1.0
    return "".join(BARS[min(int((value - low) / span * len(BARS)), len(BARS) - 1)] for value in means)


def _by_round(group: Sequence[Record], key: str) -> list[float]:
    """The value after each evaluated round, mean over the seeds that have it; the initial model is left out."""
    found: dict[int, list[float]] = {}
    for record in group:
        for version, value in series(record)[key].items() if record.rounds else ():
            if version >= 1 and value is not None:
                found.setdefault(version, []).append(value)
    return [fmean(found[version]) for version in sorted(found)]
