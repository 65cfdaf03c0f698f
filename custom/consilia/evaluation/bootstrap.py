"""95 % intervals by bootstrap over patients: the cases of one resemble each other, so patients are drawn, not cases.

Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), percentile intervals. A resample is a weight per case
(how often its patient was drawn), so that a metric of all resamples is one computation over a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from consilia.core.determinism import derive_seed
from consilia.core.errors import DataError

Array = NDArray[np.float64]
Metrics = Callable[[Array], Mapping[str, Array]]
"""From weights (R, N) to each metric's values (R,), NaN where a resample leaves it undefined."""

Intervals = dict[str, list[float] | None]
LEVEL = 0.95
RESAMPLES = 2000
"""Draws of the patients behind an interval."""

_BLOCK = 4_000_000  # weights held at a time


def grouped(patients: Sequence[str], count: int) -> NDArray[np.int64]:
    """The number of each case's patient, 0..P-1 (N,); without ``patients`` every case is a patient of its own.

    Raises:
        DataError: there are patients, but not one per case.
    """
    if len(patients) == 0:
        return np.arange(count)
    if len(patients) != count:
        raise DataError(f"metrics of {count} cases need a patient for each, got {len(patients)} patients")
    return np.unique(np.array(list(patients), dtype=str), return_inverse=True)[1].astype(np.int64)


def intervals(metrics: Metrics, groups: NDArray[np.int64], *, seed: int, resamples: int) -> Intervals:
    """Percentile intervals (low, high) of every metric, over ``resamples`` draws of the patients ``groups`` (N,).

    Resamples that leave a metric undefined are left out; None where that leaves fewer than half, or with one patient,
    whose resamples are all the same.
    """
    found = drawn_values(metrics, groups, seed=seed, resamples=resamples)
    return {name: None if values is None else _percentiles(values) for name, values in found.items()}


def errors_and_intervals(
    metrics: Metrics, groups: NDArray[np.int64], *, seed: int, resamples: int
) -> dict[str, dict[str, float]]:
    """By metric the standard error ``se`` and the interval, ``low`` and ``high``; metrics that have none are left out.

    The standard error is the sample standard deviation of the resamples' values. Otherwise as :func:`intervals`.
    """
    found = {}
    for name, values in drawn_values(metrics, groups, seed=seed, resamples=resamples).items():
        if values is not None:
            low, high = _percentiles(values)
            found[name] = {"se": float(values.std(ddof=1)), "low": low, "high": high}
    return found


def drawn_values(metrics: Metrics, groups: NDArray[np.int64], *, seed: int, resamples: int) -> dict[str, Array | None]:
    """The defined values of every metric over the resamples; None where there is no interval."""
    found: dict[str, list[Array]] = {}
    for weights in _weights(groups, seed, resamples):
        for name, values in metrics(weights).items():
            found.setdefault(name, []).append(values)
    single = len(groups) == 0 or groups.max() == 0
    return {name: None if single else _defined(np.concatenate(values)) for name, values in found.items()}


def _weights(groups: NDArray[np.int64], seed: int, resamples: int) -> Iterator[Array]:
    """Blocks of weights (R, N): how often each case's patient was drawn, in draws of as many patients as there are."""
    patients = int(groups.max()) + 1
    draw = np.random.default_rng(derive_seed(seed, "bootstrap"))
    rows = max(1, _BLOCK // max(len(groups), patients))
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        drawn = draw.integers(0, patients, size=(block, patients))
        drawn += patients * np.arange(block)[:, None]
        times = np.bincount(drawn.ravel(), minlength=block * patients).reshape(block, patients)
        yield times[:, groups].astype(np.float64)


def _defined(values: Array) -> Array | None:
    defined: Array = values[~np.isnan(values)]
    return None if 2 * len(defined) < len(values) else defined


def _percentiles(values: Array) -> list[float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]
