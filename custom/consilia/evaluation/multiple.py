"""Several comparisons at once: p-values of a bootstrap, Holm's adjustment, simultaneous (max-T) intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from consilia.evaluation.bootstrap import LEVEL, Array

POWER = 2.8
"""The normal quantiles of a two-sided test at 5 % and of 80 % power: 1.96 + 0.84."""


def bootstrap_p(values: Array) -> float | None:
    """Two-sided p-value of "the difference is 0" from draws of the difference (R,), the first of which is no draw.

    2 min(#{d <= 0} + 1, #{d >= 0} + 1) / (draws + 1), at most 1 (Davison and Hinkley, "Bootstrap Methods", 1997,
    section 4.2). With 2,000 draws none is below .001. None where no draw is defined.
    """
    drawn = values[1:][~np.isnan(values[1:])]
    if not len(drawn):
        return None
    fewer = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(drawn) + 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values (Holm, Scandinavian Journal of Statistics 6, 1979): max over ranks j <= i of (m - j + 1) p_(j).

    m counts every claim, those without a p-value too: a claim that could not be tested was made all the same.
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(tested):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p))
        adjusted[place] = highest
    return adjusted


def max_t(draws: Mapping[str, Array]) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Of every pair (a, b): a less b, and the simultaneous 95 % interval; each value (R,), the first no draw.

    d +- c se, with c the 95 % quantile over draws of the largest |d* - d| / se of all pairs (Westfall and Young,
    "Resampling-Based Multiple Testing", 1993). A pair whose draws do not vary has an interval of no width.
    """
    names = list(draws)
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    found: dict[tuple[str, str], tuple[float, float, float]] = {}
    largest: Array | None = None
    errors = []
    for a, b in pairs:
        difference = draws[a] - draws[b]
        centred = difference[1:] - difference[0]
        error = float(np.nanstd(centred, ddof=1)) if np.isfinite(centred).sum() > 1 else float("nan")
        errors.append(error)
        if error > 0:
            ratio = np.nan_to_num(np.abs(centred) / error)
            largest = ratio if largest is None else np.maximum(largest, ratio)
    factor = 0.0 if largest is None else float(np.quantile(largest, LEVEL))
    for (a, b), error in zip(pairs, errors, strict=True):
        value, half = float(draws[a][0] - draws[b][0]), factor * error
        found[a, b] = value, value - half, value + half
        found[b, a] = -value, -value - half, -value + half
    return found
