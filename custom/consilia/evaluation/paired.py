"""One set of bootstrap draws for all methods of a comparison, so that their differences are paired.

Patients are drawn with all their cases and all seeds' and folds' predictions, within strata (usually the site), and
training seeds are drawn too. Percentile intervals (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993).
They cover patients and training seeds, not other hospitals. R = draws + 1: row 0 has every patient and seed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from consilia.core.determinism import derive_seed
from consilia.evaluation.bootstrap import LEVEL, RESAMPLES, Array

_BLOCK = 4_000_000  # weights held at a time


class Estimate(TypedDict):
    """A metric of the data as they are, its interval and its standard error; None where they are not defined."""

    value: float | None
    low: float | None
    high: float | None
    se: float | None


@dataclass(frozen=True)
class Draws:
    """How often each patient (R, P) and each seed (R, S) was drawn. P and S are in the order that ``draw`` was given.

    Counts are of 16 bits: a draw's weights become floating numbers block by block.
    """

    patients: NDArray[np.uint16]
    seeds: NDArray[np.uint16]

    @property
    def count(self) -> int:
        """R: the draws, and one before them that is none."""
        return len(self.patients)

    def blocks(self, cases: int) -> Iterator[Array]:
        """The patients' weights, as many rows at a time as memory allows for so many cases."""
        rows = max(1, _BLOCK // max(1, cases, self.patients.shape[1]))
        for start in range(0, self.count, rows):
            yield self.patients[start : start + rows].astype(np.float64)

    def over_seeds(self, values: Array) -> Array:
        """The mean (R,) of values by seed (R, S) over the drawn seeds, those that are not defined (NaN) left out."""
        weights = np.where(np.isnan(values), 0.0, self.seeds)
        total = weights.sum(axis=1)
        above = (np.nan_to_num(values) * weights).sum(axis=1)
        found: Array = np.divide(above, total, out=np.full(len(values), np.nan), where=total > 0)
        return found

    @cached_property
    def vary(self) -> bool:
        """False where every draw is the same: one patient in each stratum, and one seed."""
        return bool((self.patients != 1).any() or (self.seeds != 1).any())

    def interval(self, values: Array) -> tuple[float, float] | tuple[None, None]:
        """The 95 % percentile interval of values (R,), the first of which is no draw.

        None where the draws do not vary or fewer than half of them are defined.
        """
        drawn = self._defined(values)
        if drawn is None:
            return None, None
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)

    def standard_error(self, values: Array) -> float | None:
        """Sample standard deviation over the draws; None as for :meth:`interval`."""
        drawn = self._defined(values)
        return None if drawn is None else float(drawn.std(ddof=1))

    def estimate(self, values: Array) -> Estimate:
        """What values (R,) say of a metric."""
        low, high = self.interval(values)
        value = None if np.isnan(values[0]) else float(values[0])
        return {"value": value, "low": low, "high": high, "se": self.standard_error(values)}

    def _defined(self, values: Array) -> Array | None:
        drawn: Array = values[1:][~np.isnan(values[1:])]
        return drawn if self.vary and len(drawn) > 1 and 2 * len(drawn) >= len(values) - 1 else None


def draw(strata: Sequence[str], seeds: int, *, seed: int, purpose: str, draws: int = RESAMPLES) -> Draws:
    """Draw patients, whose strata are given, as many in each stratum as it has; and ``seeds`` of so many seeds.

    Every stratum has a generator of its own: its draws do not depend on which others there are.
    """
    names = np.asarray(strata, dtype=str)
    patients = np.ones((draws + 1, len(names)), dtype=np.uint16)
    for name in sorted(set(names.tolist())):
        members = np.flatnonzero(names == name)
        patients[1:, members] = _times(len(members), draws, derive_seed(seed, purpose, "patients", name))
    trained = np.ones((draws + 1, seeds), dtype=np.uint16)
    trained[1:] = _times(seeds, draws, derive_seed(seed, purpose, "seeds"))
    return Draws(patients, trained)


def _times(size: int, draws: int, seed: int) -> NDArray[np.uint16]:
    """How often each of ``size`` is among ``size`` draws with replacement, (draws, size)."""
    random = np.random.default_rng(seed)
    times = np.empty((draws, size), dtype=np.uint16)
    rows = max(1, _BLOCK // size)
    for start in range(0, draws, rows):
        block = times[start : start + rows]
        drawn = random.integers(0, size, size=block.shape) + size * np.arange(len(block))[:, None]
        block[:] = np.bincount(drawn.ravel(), minlength=block.size).reshape(block.shape)
    return times
