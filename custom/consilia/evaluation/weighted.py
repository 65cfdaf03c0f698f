"""Metrics with a weight per case, for many sets of weights at once: what a bootstrap needs.

Shapes: N cases, R sets of weights (R, N), K classes. An undefined value is NaN here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from consilia.evaluation.bootstrap import Array

Flags = NDArray[np.bool_]


def weighted_ranking(scores: Array, positive: Flags, weights: Array) -> tuple[Array, Array]:
    """AUROC and average precision (R,) of ``scores`` (N,) with each row of ``weights`` (R, N); NaN without both kinds.

    AUROC = sum over distinct scores s of P(s) (N(< s) + N(s) / 2) / (P N), by weights P of positives and N of others.
    Average precision = sum over s of P(s) / P times the precision among the cases with a score of at least s.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    hits = np.add.reduceat(np.where(positive[order], weights[:, order], 0.0), starts, axis=1)
    others = np.add.reduceat(np.where(positive[order], 0.0, weights[:, order]), starts, axis=1)
    all_hits, all_others = hits.sum(axis=1), others.sum(axis=1)
    below = np.cumsum(others, axis=1) - others
    area = ratio((hits * (below + others / 2)).sum(axis=1), all_hits * all_others)
    hits, chosen = hits[:, ::-1], np.cumsum((hits + others)[:, ::-1], axis=1)
    precision = np.cumsum(hits, axis=1) / np.where(chosen > 0, chosen, 1.0)
    average = ratio((hits * precision).sum(axis=1), all_hits)
    return area, np.where(all_others > 0, average, np.nan)


def ratio(above: Array, below: Array) -> Array:
    """``above / below`` (R,), NaN where ``below`` is 0."""
    found: Array = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
    return found


def mean_of_defined(values: Sequence[Array]) -> Array:
    """Mean of the defined values, element by element; NaN where none is."""
    stacked = np.stack(values)
    return ratio(np.nansum(stacked, axis=0), (~np.isnan(stacked)).sum(axis=0).astype(np.float64))
