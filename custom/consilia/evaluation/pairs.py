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
    risk_i > risk_j, equal ones by a half.

    Cases join a Fenwick tree over the ranks of their risk in the order of falling time: O(N log N) for each row of
    weights.
    """
    ranks = np.unique(risk, return_inverse=True)[1] + 1
    own = np.ascontiguousarray(weights.T, dtype=np.float64)
    tree = np.zeros((len(risk) + 1, len(weights)))
    later, concordant, comparable = (np.zeros(len(weights)) for _ in range(3))
    # By falling time, and of equal times the censored first: they outlive the events, which are not compared.
    _, place, counts = np.unique(
        np.stack([-time, event.astype(np.float64)], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    for group in np.split(np.argsort(place, kind="stable"), np.cumsum(counts)[:-1]):
        for case in group[event[group]]:
            below, no_higher = _up_to(tree, ranks[case] - 1), _up_to(tree, ranks[case])
            concordant += own[case] * (below + no_higher) / 2
            comparable += own[case] * later
        for case in group:
            later += own[case]
            _join(tree, ranks[case], own[case])
    return concordant, comparable


def _up_to(tree: Array, rank: int) -> Array:
    """The weights (R,) of all cases of at most this rank."""
    found: Array = np.zeros(tree.shape[1])
    while rank > 0:
        found += tree[rank]
        rank -= rank & -rank
    return found


def _join(tree: Array, rank: int, weights: Array) -> None:
    while rank < len(tree):
        tree[rank] += weights
        rank += rank & -rank


def _order(left: Array, right: Array) -> Array:
    """1 where left > right, 1/2 where equal, else 0."""
    found: Array = (left > right) + 0.5 * (left == right)
    return found
