"""The Dirichlet partition: complete, disjoint, skewed as alpha says, with whole patients and a clear end."""

from __future__ import annotations

import numpy as np
import pytest

from consilia.core.errors import ConfigError, DataError
from consilia.simulation.partition import dirichlet_partition, partition_patients

LABELS = np.repeat(np.arange(8), [85, 218, 108, 202, 85, 99, 233, 164])


@pytest.mark.parametrize(("sites", "alpha"), [(2, 0.1), (10, 0.1), (20, 0.5)])
def test_every_case_goes_to_one_site_and_every_site_has_enough(sites: int, alpha: float) -> None:
    parts = dirichlet_partition(LABELS, sites, alpha, seed=3)
    assert len(parts) == sites
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(LABELS)))
    assert min(len(part) for part in parts) >= 10


def test_seed_decides() -> None:
    first, again, other = (dirichlet_partition(LABELS, 5, 0.1, seed=seed) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert [len(part) for part in first] != [len(part) for part in other]


def entropy(part: np.ndarray) -> float:
    p = np.bincount(LABELS[part], minlength=8) / len(part)
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def test_small_alpha_skews_and_large_alpha_does_not() -> None:
    skewed, even = (np.mean([entropy(p) for p in dirichlet_partition(LABELS, 8, a, seed=0)]) for a in (0.1, 1000.0))
    assert even > 0.98 * entropy(np.arange(len(LABELS)))
    assert skewed < 0.7 * even


def test_a_full_site_gets_no_more() -> None:
    # Before its last class a site holds less than N / K or gets nothing: it cannot exceed N / K by more than a class.
    parts = dirichlet_partition(LABELS, 4, 0.1, seed=0)
    for part in parts:
        held = np.cumsum(np.bincount(LABELS[part], minlength=8))
        grew = np.flatnonzero(np.diff(held, prepend=0) > 0)
        assert held[grew[-1]] - np.bincount(LABELS[part], minlength=8)[grew[-1]] < len(LABELS) / 4


def test_two_classes_twenty_sites_alpha_a_tenth() -> None:
    parts = dirichlet_partition(np.repeat([0, 1], [1122, 3115]), 20, 0.1, seed=0)
    assert min(len(part) for part in parts) >= 10


def test_patients_stay_whole() -> None:
    rng = np.random.default_rng(0)
    owners = rng.integers(0, 150, size=500)
    parts = partition_patients([f"p{i}" for i in owners], owners % 3, 4, 0.5, seed=0, min_cases=5)
    sets = [set(owners[part].tolist()) for part in parts]
    assert sum(len(part) for part in parts) == 500
    assert len(set.union(*sets)) == sum(len(group) for group in sets)


def test_impossible_cuts_end_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consilia.simulation.partition.BATCHES", 1)
    with pytest.raises(DataError, match="50 cases cannot give 6 sites 10 cases each"):
        dirichlet_partition(np.zeros(50, dtype=int), 6, 1.0, seed=0)
    with pytest.raises(DataError, match=r"no Dirichlet\(0.01\) partition of 100 cases of 1 classes into 10 sites"):
        dirichlet_partition(np.zeros(100, dtype=int), 10, 0.01, seed=0)
    with pytest.raises(ConfigError, match="alpha > 0"):
        dirichlet_partition(LABELS, 4, 0.0, seed=0)
