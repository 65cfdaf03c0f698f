"""Folds by patient, the plain loop, and paired intervals of AUROC."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from benchmarks.folds import CENTRALISED, centralised, fold_splits, logits_of
from benchmarks.paired import aurocs, common, draws, tables, verdict
from consilia.data.loading import load_site
from tests.federation.support import small


def test_folds_are_disjoint_and_cover_all_patients() -> None:
    labels = np.array([0] * 40 + [1] * 20)
    splits = list(fold_splits(labels, 3, seed=5))
    tested = np.array([split == "test" for split in splits])
    assert (tested.sum(axis=0) == 1).all()
    for split in splits:
        assert 6 <= labels[split == "test"].sum() <= 7  # a third of the twenty
        assert (split == "validation").sum() == 6  # 15 % of forty
        assert 0 < labels[split == "validation"].sum() < 6


@pytest.mark.slow
def test_the_plain_loop_learns_and_keeps_the_pass_of_lowest_loss(wisconsin) -> None:
    sites = [load_site(path, "diagnosis") for _, path in sorted(wisconsin.items())]
    models, losses = centralised(small("fedavg", rounds=4), sites)
    validation = torch.cat([logits_of(models["best"], site.validation) for site in sites])
    labels = torch.cat([site.validation.labels for site in sites])
    assert float(functional.cross_entropy(validation.double(), labels)) == pytest.approx(min(losses))
    assert len(losses) == 4
    assert float((validation.argmax(1) == labels).float().mean()) > 0.9


def predictions(shift: float) -> pd.DataFrame:
    """Two folds of 60 patients at two sites, two cases each; the method's scores are better by ``shift``."""
    random = np.random.default_rng(3)
    rows = []
    for patient in range(120):
        label, site = patient % 2, "ab"[patient % 4 // 2]
        for _ in range(2):
            base = label + random.normal()
            for method, score in ((CENTRALISED, base), ("fedavg", base + shift * label)):
                rows.append((method, patient // 60, 0, "last", site, patient, label, 1 / (1 + np.exp(-score))))
    columns = ["method", "fold", "seed", "model", "site", "patient", "label", "probability"]
    return pd.DataFrame(rows, columns=columns)


def test_aurocs_of_draws_are_those_of_repeated_cases() -> None:
    table = predictions(0.0)
    one = table[table["method"] == CENTRALISED]
    patients = one[["site", "patient"]].drop_duplicates().sort_values(["site", "patient"], ignore_index=True)
    times = draws(patients)[:3]
    for row, found in zip(times, aurocs(one, patients, times, np.ones((3, 1))), strict=True):
        weight = dict(zip(patients["patient"], row, strict=True))
        again = one.loc[one.index.repeat(one["patient"].map(weight).astype(int))]
        by_fold = [roc_auc_score(fold["label"], fold["probability"]) for _, fold in again.groupby("fold")]
        assert found == pytest.approx(np.mean(by_fold))
    in_a = (patients["site"] == "a").to_numpy()
    assert (draws(patients)[:, in_a].sum(axis=1) == in_a.sum()).all()  # drawn within the site


def test_verdicts() -> None:
    random = np.random.default_rng(0).normal(size=2001)
    assert verdict(0.05 + 0.01 * random) == "better"
    assert verdict(-0.05 + 0.01 * random) == "worse"
    assert verdict(0.001 * random) == "equivalent"
    assert verdict(0.02 * random) == "not decided"
    better, same = (list(tables(predictions(shift))) for shift in (2.0, 0.0))
    assert "| better |" in better[5]
    assert "| +0.000 [+0.000, +0.000] | equivalent |" in same[5]
    table = predictions(0.0)
    unfinished = table[(table["method"] == CENTRALISED) | (table["fold"] == 0)]
    assert set(common(unfinished)["fold"]) == {0}
