"""Concordant pairs with a weight per case, for many sets of weights at once: AUROC and C-index before the division.

Numerators and denominators stay apart, so that pairs within several folds can be summed: scores of unlike models do
not compare. Shapes: N cases, R sets of weights (R, N).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from consilia.evaluation.bootstrap import Array
from consilia.evaluation.weighted import ratio, weighted_ranking

Pairs = tuple[Array, Array]
"""Concordant and all comparable pairs, (R,) each; a tie of scores counts one half."""

_MATRIX = 40_000  # pairs up to which a matrix of them is faster than ranking


def ranked_pairs(scores: Array, positive: NDArray[np.bool_], weights: Array) -> Pairs:
    """Pairs of a positive and a negative case, concordant where the positive one has the higher score.

    The Mann-Whitney form of AUROC: sum_ij w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) over positives i and negatives j.
    """
    hits, others = np.flatnonzero(positive), np.flatnonzero(~positive)
    if not len(hits) or not len(others):
        return np.zeros(len(weights)), np.zeros(len(weights))
    all_pairs = weights[:, hits].sum(axis=1) * weights[:, others].sum(axis=1)
    if len(hits) * len(others) <= _MATRIX:
        higher = _order(scores[hits][:, None], scores[others][None, :])
        return np.einsum("rj,rj->r", weights[:, hits] @ higher, weights[:, others]), all_pairs
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    negative = np.add.reduceat(np.where(positive[order], 0.0, weights[:, order]), starts, axis=1)
    below = np.cumsum(negative, axis=1)
    below -= negative / 2
    found = np.add.reduceat(np.where(positive[order], weights[:, order], 0.0), starts, axis=1)
    return np.einsum("rs,rs->r", found, below), all_pairs


def average_precision(scores: Array, positive: NDArray[np.bool_], weights: Array) -> Array:
    """Average precision (R,), as :func:`weighted_ranking` has it; of few cases by a matrix of pairs."""
    hits = np.flatnonzero(positive)
    if not 0 < len(hits) < len(positive) or len(hits) * len(positive) > _MATRIX:
        return weighted_ranking(scores, positive, weights)[1]
    reached = (scores[:, None] >= scores[hits][None, :]).astype(np.float64)
    found, drawn = weights[:, hits], weights @ reached
    precision = np.divide(found @ reached[hits], drawn, out=np.zeros(drawn.shape), where=drawn > 0)
    others = weights.sum(axis=1) > found.sum(axis=1)
    average = ratio(np.einsum("rp,rp->r", found, precision), found.sum(axis=1))
    return np.where(others, average, np.nan)


def survival_pairs(time: Array, event: NDArray[np.bool_], risk: Array, weights: Array) -> Pairs:
    """Harrell's C-index (JAMA 247, 1982) as pairs: i had its event while j was still under observation.

    i and j compare where i has an event and time_i < time_j, or times are equal and j is censored; concordant where
    risk_i > risk_j. All pairs of cases are held at once (N^2).
    """
    had = np.flatnonzero(event)
    later = (time[had][:, None] < time[None, :]) | ((time[had][:, None] == time[None, :]) & ~event[None, :])
    higher = _order(risk[had][:, None], risk[None, :])
    first = weights[:, had]
    concordant = np.einsum("rj,rj->r", first @ (later * higher), weights)
    return concordant, np.einsum("rj,rj->r", first @ later.astype(np.float64), weights)


def _order(left: Array, right: Array) -> Array:
    """1 where left > right, 1/2 where equal, else 0."""
    found: Array = (left > right) + 0.5 * (left == right)
    return found
