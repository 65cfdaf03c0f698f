"""An embedded federation of survival data: four invented hospitals, hazard ratios that are known because they are set.

A case's hazard at day t is h_k(t) exp(sum over its features x of log(HR_x) x): the hospitals k share the hazard ratios
and have Weibull baseline hazards h_k of their own. Follow-up ends with the event, with a random loss to follow-up, or
with the study, whichever comes first. No row comes from a patient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from consilia.core.determinism import derive_seed
from consilia.core.files import write_bytes
from consilia.data.base_spec import LabelSpec
from consilia.data.specs import DatasetSpec, TabularSpec

SEED = 17
STAGES = ("1", "2", "3")
HAZARD_RATIOS = {"age": 1.5, "marker": 2.0, "pulse": 1.0, "sodium": 1.0, "stage 2": 1.8, "stage 3": 3.2}
"""Of one standard deviation of a number (the last two of which mean nothing), and of a stage against the first."""

MEANS, DEVIATIONS = (
    {"age": 62, "marker": 5, "pulse": 75, "sodium": 140},
    {"age": 9, "marker": 2, "pulse": 10, "sodium": 3},
)
SHAPE = 1.3
"""Of the Weibull baseline hazards: the hazard grows with time."""
LONGEST = 1825
"""Days until the study ends."""


@dataclass(frozen=True)
class _Hospital:
    """Cases, the Weibull scale in days (the smaller, the more events), and the mean days until a loss to follow-up."""

    cases: int
    scale: float
    loss: float


HOSPITALS = {
    "survival-hospital-1": _Hospital(120, 1800, 3000),
    "survival-hospital-2": _Hospital(150, 3000, 4000),
    "survival-hospital-3": _Hospital(180, 4500, 2500),
    "survival-hospital-4": _Hospital(210, 2500, 2000),
}


def survival_sites(out: Path) -> dict[str, DatasetSpec]:
    """Write ``<hospital>/cases.csv`` under ``out`` and return the dataset specification of each hospital."""
    specs: dict[str, DatasetSpec] = {}
    for name, hospital in HOSPITALS.items():
        file = out / name / "cases.csv"
        table = draw_survival(hospital.cases, hospital.scale, hospital.loss, derive_seed(SEED, "survival", name))
        write_bytes(file, table.to_csv(index=False, lineterminator="\n").encode())
        specs[name] = TabularSpec.model_validate(
            {
                "format": "tabular",
                "task": "survival",
                "file": file,
                "case": "case",
                "time": "days",
                "label": LabelSpec(column="died").model_dump(exclude_defaults=True),
                "numeric": tuple(MEANS),
                "categorical": {"stage": STAGES},
                "splits": {"validation": 0.2, "test": 0.3},
            }
        )
    return specs


def draw_survival(cases: int, scale: float, loss: float, seed: int) -> pd.DataFrame:
    """A table with a row per case: case, the features, ``days`` from 1, and ``died``, 1 or 0.

    The time of the event has the survival function exp(-(t / scale)^SHAPE exp(s)), drawn by its inverse; the loss to
    follow-up is exponential with the mean ``loss`` days.
    """
    rng = np.random.default_rng(seed)
    numbers = {name: rng.normal(size=cases) for name in MEANS}
    stage = rng.choice(STAGES, size=cases, p=(0.5, 0.3, 0.2))
    log_hazard = sum(math.log(HAZARD_RATIOS[name]) * values for name, values in numbers.items())
    log_hazard = log_hazard + sum(math.log(HAZARD_RATIOS[f"stage {one}"]) * (stage == one) for one in STAGES[1:])
    event = scale * (-np.log1p(-rng.random(cases)) / np.exp(log_hazard)) ** (1 / SHAPE)
    ended = np.minimum(rng.exponential(loss, size=cases), LONGEST)
    table: dict[str, Any] = {"case": [f"case-{number:03d}" for number in range(1, cases + 1)]}
    table |= {name: (MEANS[name] + DEVIATIONS[name] * values).round(1) for name, values in numbers.items()}
    days = np.maximum(np.ceil(np.minimum(event, ended)), 1).astype(int)
    return pd.DataFrame({**table, "stage": stage, "days": days, "died": (event <= ended).astype(int)})
