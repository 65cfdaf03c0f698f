"""Metrics as data frames: of one run a row per model, site and split; of a study a row per method and metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from consilia.evaluation.compare import comparison_table
from consilia.evaluation.metrics import FINAL, OVER_ROUNDS
from consilia.evaluation.summary import Part
from consilia.record.schema import Record

KEYS = ["version", "model", "site", "split"]
"""Of a run: the chosen version (last, best); global, personal or a variant of the method; where and on which cases."""

COMPARED = ["method", "version", "metric", "mean", "sd", "n"]

Scalar = float | int | str | None

_INTERVALS, _CURVES, _PROMPTS = "intervals", "curves", "prompts"


def flat(metrics: Mapping[str, Any], above: str = "") -> dict[str, Scalar]:
    """Metrics of a split in plain JSON types, nested names with dots (``operating.sensitivity``), without the curves.

    The interval of a metric stands as its name with ``.low``, ``.high`` and ``.se``. Of a segmentation a share of
    missed cases, which has one, stands beside their number (``prompts.box.missed_share``).
    """
    if _PROMPTS in metrics:
        metrics = _with_missed_shares(metrics)
    found: dict[str, Scalar] = {}
    for key, value in metrics.items():
        name = f"{above}{key}"
        if key == _INTERVALS:
            for metric, interval in value.items():
                found |= {f"{above}{metric}.{end}": interval[end] for end in ("low", "high", "se")}
        elif isinstance(value, Mapping):
            found |= {} if key == _CURVES else flat(value, f"{name}.")
        else:
            found[name] = value
    return found


def _with_missed_shares(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of a segmentation whose intervals are named as they stand in it."""
    scored = metrics["count"] - metrics["empty"]
    prompts = {
        setting: {**found, "missed_share": found["missed"] / scored if scored else None}
        for setting, found in metrics[_PROMPTS].items()
    }
    intervals = {
        f"{_PROMPTS}.{name}{'_share' * name.endswith('.missed')}": interval
        for name, interval in metrics.get(_INTERVALS, {}).items()
    }
    return {**metrics, _PROMPTS: prompts, _INTERVALS: intervals}


def run_frame(record: Record) -> pd.DataFrame:
    """The final evaluations of a run: :data:`KEYS`, then a column per metric; NaN where a row has no such value."""
    rows = []
    for version, chosen in record.final.items():
        for model, sites in {"global": chosen.global_, "personal": chosen.personal, **chosen.variants}.items():
            for site, splits in sites.items():
                for split in ("validation", "test"):
                    if (metrics := getattr(splits, split)) is not None:
                        rows.append([version, model, site, split, flat(metrics.model_dump(mode="json"))])
    keys = pd.DataFrame([row[:-1] for row in rows], columns=KEYS)
    values = pd.DataFrame([row[-1] for row in rows], index=keys.index).dropna(axis="columns", how="all")
    return keys.join(values)


def comparison_frame(records: Sequence[Record]) -> pd.DataFrame:
    """The comparison of runs in long form: mean, sample standard deviation and number of the seeds with a value.

    ``version``: last, best, or ``rounds`` for the metrics over all of them (forgetting). What no seed of a method has
    is left out; ``sd`` is NaN of a single seed. Raises :class:`ConfigError` where the runs cannot be compared.
    """
    rows = []
    for row in comparison_table(records):
        parts: list[tuple[str, Part, Sequence[str]]] = [
            ("last", "last", [metric.name for metric in FINAL.of(row.task)]),
            ("best", "best", [metric.name for metric in FINAL.of(row.task)]),
            ("rounds", "over_rounds", [metric.name for metric in OVER_ROUNDS.of(row.task)]),
        ]
        for version, part, names in parts:
            for name in names:
                if (found := row.spread(part, name)).n:
                    rows.append([row.label, version, name, found.mean, found.sd, found.n])
    return pd.DataFrame(rows, columns=COMPARED).astype({"mean": float, "sd": float})
