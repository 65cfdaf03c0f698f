"""Divide one pooled dataset into sites with skewed labels (the Dirichlet protocol of the FedKPer study)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from consilia.core.determinism import derive_seed
from consilia.core.errors import ConfigError, DataError
from consilia.data.splits import patient_labels

BATCH = 4096
BATCHES = 256


def dirichlet_partition(
    labels: np.ndarray, sites: int, alpha: float, seed: int, min_cases: int = 10
) -> list[np.ndarray]:
    """Positions of the cases of each site; every case goes to exactly one site.

    Per class: shuffle its cases, draw shares from Dir(alpha, ..., alpha), set the share of a site that already holds
    N / sites cases to zero, renormalise, divide. All of it again until every site has ``min_cases``.

    Raises:
        ConfigError: a value is out of range.
        DataError: no such partition came out in a bounded number of tries.
    """
    if sites < 1 or alpha <= 0 or min_cases < 1:
        raise ConfigError(
            f"a Dirichlet partition needs sites >= 1, alpha > 0, min_cases >= 1, got {sites}, {alpha}, {min_cases}"
        )
    if len(labels) < sites * min_cases:
        raise DataError(f"{len(labels)} cases cannot give {sites} sites {min_cases} cases each")
    rng = np.random.default_rng(derive_seed(seed, "dirichlet"))
    classes, counts = np.unique(labels, return_counts=True)
    sizes = _draw_sizes(counts, sites, alpha, min_cases, rng)
    parts: list[list[np.ndarray]] = [[] for _ in range(sites)]
    for label, row in zip(classes, sizes, strict=True):
        members = rng.permutation(np.flatnonzero(labels == label))
        for part, piece in zip(parts, np.split(members, np.cumsum(row)[:-1]), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) for part in parts]


def partition_patients(
    patients: Sequence[str], labels: np.ndarray, sites: int, alpha: float, seed: int, min_cases: int = 10
) -> list[np.ndarray]:
    """As :func:`dirichlet_partition`, but every patient stays whole: patients are divided by their majority label.

    ``min_cases`` counts patients here, so a site has at least that many cases.
    """
    _, majority, member = patient_labels(patients, labels)
    parts = dirichlet_partition(majority, sites, alpha, seed, min_cases)
    return [np.flatnonzero(np.isin(member, part)) for part in parts]


def _draw_sizes(counts: np.ndarray, sites: int, alpha: float, min_cases: int, rng: np.random.Generator) -> np.ndarray:
    """Cases (classes, sites) of the first try that gives every site enough.

    Which cases a site gets does not decide whether a try succeeds, so sizes are drawn first, many tries at once: with
    two classes and alpha 0.1, about one try in a hundred thousand succeeds.
    """
    for _ in range(BATCHES):
        held = np.zeros((BATCH, sites), dtype=np.int64)
        drawn = []
        for count in counts:
            open_sites = held < counts.sum() / sites
            shares = rng.dirichlet(np.full(sites, alpha), size=BATCH) * open_sites
            # The whole draw can fall on sites that are full; then the open ones share alike.
            shares = np.where(shares.sum(axis=1, keepdims=True) > 0, shares, open_sites)
            bounds = np.cumsum(shares, axis=1)
            bounds = (bounds / bounds[:, -1:] * count).astype(np.int64)  # the last is count exactly: x / x is 1
            drawn.append(np.diff(bounds, prepend=0, axis=1))
            held += drawn[-1]
        good = np.flatnonzero(held.min(axis=1) >= min_cases)
        if len(good):
            return np.stack(drawn)[:, good[0]]
    raise DataError(
        f"no Dirichlet({alpha}) partition of {counts.sum()} cases of {len(counts)} classes into {sites} sites with at "
        f"least {min_cases} each came out in {BATCH * BATCHES} tries: take a larger alpha, fewer sites, or fewer "
        "min_cases"
    )
