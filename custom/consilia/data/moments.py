"""Sums over a site's training values, from which sites together get one mean and one standard deviation.

Of column or channel k: n_k values, their sum s_k and the sum of their squares q_k, in float64. Over sites these add up;
mean = s / n, variance = q / n - mean^2 (of the population, as each site's own), 0 where that is no more than rounding.
Raw values of pixels are whole numbers from 0 to 255, so that their sums are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from consilia.core.errors import DataError
from consilia.core.schema import Strict

Values = Annotated[tuple[float, ...], Field(max_length=100_000)]
LARGEST = 1e15
"""A mean or deviation beyond this is no measurement."""

ROUNDING = 1e-12
"""Share of the mean square; below it a variance is what the sums' rounding leaves of a column that never changes."""


class Moments(Strict):
    """``values``: how many there are of each column or channel, ``total``: their sums, ``squares``: of the squares."""

    values: Annotated[tuple[Annotated[int, Field(ge=0, le=2**53)], ...], Field(min_length=1, max_length=100_000)]
    total: Values
    squares: Values

    @model_validator(mode="after")
    def _of_real_values(self) -> Moments:
        if not len(self.values) == len(self.total) == len(self.squares) or min(self.squares) < 0:
            raise ValueError("expected values, total and squares of one length, and no negative sum of squares")
        for column, (n, total, squares) in enumerate(zip(self.values, self.total, self.squares, strict=True)):
            # No n numbers have a larger sum for their sum of squares (Cauchy and Schwarz); of none all three are 0.
            if squares > n * LARGEST**2 or abs(total) > math.sqrt(n * squares) * (1 + 1e-9):
                raise ValueError(
                    f"column {column}: no {n} values have the sum {total} and the sum of squares {squares}"
                )
        return self


def moments(raw: np.ndarray, axes: tuple[int, ...], fewest: int = 0) -> Moments:
    """Sums of values over the given axes, the first of them that of the cases; NaN left out.

    Of a column that fewer than ``fewest`` cases have there are none: they would tell single cases' values.
    """
    there = ~np.isnan(raw)
    enough = there.any(axis=axes[1:]).sum(axis=0) >= fewest
    known = np.where(there, raw, 0).astype(np.float64)
    return Moments(
        values=tuple(int(n) for n in np.where(enough, there.sum(axis=axes), 0)),
        total=tuple(np.where(enough, known.sum(axis=axes), 0).tolist()),
        squares=tuple(np.where(enough, (known**2).sum(axis=axes), 0).tolist()),
    )


def pooled_values(sites: Sequence[Moments]) -> dict[str, list[float]]:
    """``mean`` and ``std`` over all sites, added up in their order; 0 and 1 where nothing was observed or varies.

    Raises:
        DataError: the sites have unlike numbers of columns or channels.
    """
    lengths = sorted({len(own.values) for own in sites})
    if len(lengths) != 1:
        raise DataError(f"the sites' sums are of {lengths} columns or channels, expected one number")
    count, total, squares = (np.zeros(lengths[0]) for _ in range(3))
    for own in sites:
        count, total, squares = count + own.values, total + own.total, squares + own.squares
    known = np.maximum(count, 1)
    mean, square = total / known, squares / known
    spread = square - mean**2
    varies = spread > ROUNDING * square
    return {"mean": mean.tolist(), "std": np.sqrt(np.where(varies, spread, 1.0)).tolist()}


def require_values(values: Mapping[str, Sequence[float]], columns: int | None = None) -> None:
    """Raise :class:`DataError` unless they are a mean and a deviation above 0 of each column or channel."""
    mean, std = (list(values.get(key, ())) for key in ("mean", "std"))
    if set(values) != {"mean", "std"} or len(mean) != len(std) or columns not in (None, len(mean)):
        got = {key: len(found) for key, found in values.items()}
        raise DataError(f"pooled preprocessing: expected mean and std of {columns} columns or channels, got {got}")
    if not all(math.isfinite(x) and abs(x) <= LARGEST for x in (*mean, *std)) or not all(x > 0 for x in std):
        raise DataError("pooled preprocessing: expected finite means, and deviations above 0")
