"""Small made-up studies: predictions of several methods on the same patients, and the plan of their runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd


def classified(
    strength: Mapping[str, float],
    *,
    sites: Mapping[str, int],
    folds: int = 3,
    seeds: Sequence[int] = (0, 1, 2),
    models: Sequence[str] = ("global", "personal"),
    versions: Sequence[str] = ("last",),
    data: str = "heart",
    option: str = "",
    cases: int = 1,
    random: int = 0,
) -> pd.DataFrame:
    """Predictions of two classes: the probability of a positive case is higher by a method's ``strength``.

    Every patient is in one fold and has ``cases`` cases; sites are names with numbers of patients.
    """
    draw = np.random.default_rng(random)
    people = [
        {
            "site": site,
            "patient": f"p{number}",
            "fold": number % folds,
            "ease": draw.normal(),
            "case": f"{number}.{one}",
        }
        | {"label": int(draw.random() < 0.4)}
        for site, size in sites.items()
        for number in range(size)
        for one in range(cases)
    ]
    base = pd.DataFrame(people)
    found = []
    for method, shift in strength.items():
        for seed in seeds:
            for version in versions:
                for model in models:
                    score = shift * base["label"] + 0.7 * base["ease"] + 0.7 * draw.normal(size=len(base))
                    p1 = 1 / (1 + np.exp(-(score - shift / 2)))
                    columns: dict[str, Any] = {"method": method, "seed": seed, "version": version, "model": model}
                    found.append(base.assign(**columns, p0=1 - p1, p1=p1))
    table = pd.concat(found, ignore_index=True).drop(columns="ease")
    return table.assign(data=data, option=option, stratum=table["site"])


def plan(predictions: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    """A done run for each in the predictions, with further columns."""
    runs = predictions[["data", "option", "method", "fold", "seed"]].drop_duplicates(ignore_index=True)
    usual = {"status": "done", "reason": "", "command": "consilia compare study.yaml", "seconds": 2.0, "rounds": 5}
    more = {"bytes_up": 1000.0, "bytes_down": 1000.0, "core_seconds": 2.0, "saw": "training labels of all sites"}
    return runs.assign(**{**usual, **more, "rate": "0.01", "edge": False, **columns})


NO_ROUNDS = pd.DataFrame(columns=["data", "option", "method", "fold", "seed", "version", "model", "metric", "value"])
