"""The embedded federation: the Wisconsin breast cancer data that ship with scikit-learn, at four invented hospitals."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from consilia.core.files import write_bytes
from consilia.data.specs import DatasetSpec, LabelSpec, TabularSpec
from consilia.simulation.partition import dirichlet_partition

HOSPITALS = ("hospital-1", "hospital-2", "hospital-3", "hospital-4")
CLASSES = ("benign", "malignant")
ALPHA = 1.0
SEED = 7  # the first with both classes at every hospital, so that each has an AUROC
MIN_CASES = 60


def wisconsin_sites(out: Path) -> dict[str, DatasetSpec]:
    """Write ``<hospital>/cases.csv`` under ``out`` and return the dataset specification of each hospital.

    569 fine-needle aspirates, 30 numeric features; label skew by a Dirichlet partition with alpha 1.
    """
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer(as_frame=True)
    features = list(bunch.data.columns)
    table = bunch.data.copy()
    table.insert(0, "case", [f"aspirate-{i:03d}" for i in range(1, len(table) + 1)])
    table["diagnosis"] = pd.Series(bunch.target).map({0: "malignant", 1: "benign"})
    labels = table["diagnosis"].map(CLASSES.index).to_numpy()
    specs: dict[str, DatasetSpec] = {}
    parts = dirichlet_partition(labels, len(HOSPITALS), ALPHA, SEED, MIN_CASES)
    for hospital, part in zip(HOSPITALS, parts, strict=True):
        file = out / hospital / "cases.csv"
        write_bytes(file, table.iloc[part].to_csv(index=False, lineterminator="\n").encode())
        specs[hospital] = TabularSpec(
            format="tabular",
            file=file,
            case="case",
            classes=CLASSES,
            label=LabelSpec(column="diagnosis"),
            numeric=tuple(features),
        )
    return specs
