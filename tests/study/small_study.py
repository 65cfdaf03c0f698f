"""A tiny federation, a study of it, and its runs without pages."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from consilia.core.events import Event
from consilia.study.analysis import analyse
from consilia.study.execute import execute
from consilia.study.federations import federations_of
from consilia.study.outputs import CLAIMS, SCORES, TABLES, write_tables
from consilia.study.plan import Planned, plan_of
from consilia.study.results import predictions_of, rounds_of, runs_of
from consilia.study.study import Study

SPEC: Mapping[str, Any] = {
    "format": "tabular",
    "case": "id",
    "classes": ["no", "yes"],
    "label": {"column": "y"},
    "numeric": ["x0", "x1"],
}
FAST = {"rounds": 2, "training": {"local_epochs": 1, "device": "cpu"}}


def table(site: str, cases: int, seed: int = 0, positives: float = 0.5) -> pd.DataFrame:
    """Two features that tell the classes apart, and the patients' sex and age."""
    generator = np.random.default_rng([seed, cases])
    labels = (np.arange(cases) < round(positives * cases)).astype(int)
    features = generator.normal(size=(cases, 2)) + labels[:, None]
    return pd.DataFrame(
        {
            "id": [f"{site}{number}" for number in range(cases)],
            "x0": features[:, 0],
            "x1": features[:, 1],
            "sex": np.where(generator.integers(0, 2, cases), "f", "m"),
            "age": generator.integers(40, 80, cases),
            "y": np.where(labels, "yes", "no"),
        }
    )


def federation(folder: Path, tables: Mapping[str, pd.DataFrame] | None = None, **common: Any) -> str:
    """The federation file of these sites' tables."""
    folder.mkdir(parents=True, exist_ok=True)
    found = tables or {"a": table("a", 60), "b": table("b", 48)}
    for site, rows in found.items():
        rows.to_csv(folder / f"{site}.csv", index=False)
    content = {"dataset": "d", "common": {**SPEC, **common}, "sites": {s: {"file": f"{s}.csv"} for s in found}}
    (folder / "federation.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "federation.yaml")


def study(data: str | dict[str, str], methods: Sequence[str] | Mapping[str, Any] = ("fedavg",), **keys: Any) -> Study:
    """A fast study; methods by name, or by label."""
    chosen = methods if isinstance(methods, Mapping) else {name: {"method": name} for name in methods}
    return Study(**{"data": data, "methods": dict(chosen), "baselines": (), "run": FAST, **keys})


def silent(name: str, event: Event) -> None:
    """For tests that do not need the events."""


def carried_out(study: Study, folder: Path, *, jobs: int = 1, budget: float | None = None) -> list[Planned]:
    """The engine without the work on pages: plan, runs, and the tables."""
    planned = execute(
        plan_of(federations_of(study, folder), None), engine="inprocess", jobs=jobs, budget=budget, progress=silent
    )
    tables = predictions_of(planned), runs_of(planned, ["consilia", "compare", "s.yaml"]), rounds_of(planned)
    write_tables(analyse(*tables, study.claims, title="study", draws=50), folder)
    return planned


def of(planned: Sequence[Planned], label: str) -> Planned:
    """The first run of a label."""
    return next(one for one in planned if one.label == label)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of a study's tables and models, by path."""
    files = [folder / name for name in (TABLES, SCORES, CLAIMS)] + sorted(folder.rglob("global-*.safetensors"))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
