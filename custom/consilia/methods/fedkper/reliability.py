"""Reliability x label diversity: the score by which the server weighs an update (paper Eq. 6, specification 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

FLOOR = 1e-6
"""Added to the diversity so that a federation of one-class sites still has weights."""

MAX_SCORE = 1 + FLOOR


def label_diversity(label_counts: Sequence[float]) -> float:
    """d_k = clip(H_k / ln C, 0, 1) with H_k = -sum_c p_c ln(p_c + 1e-12): normalised entropy of a site's train labels.

    Args:
        label_counts: training cases per class, one entry for each of the task's C classes, also those the site lacks.

    Raises:
        ValueError: no class, a negative or non-finite count, or no case at all.
    """
    counts = [float(count) for count in label_counts]
    total = math.fsum(counts)
    if not counts or any(not math.isfinite(count) or count < 0 for count in counts) or total <= 0:
        raise ValueError(f"label_counts needs non-negative counts with at least one case, got {counts}")
    if len(counts) == 1:
        return 0.0
    shares = [count / total for count in counts]
    entropy = -math.fsum(share * math.log(share + 1e-12) for share in shares)
    return min(max(entropy / math.log(len(counts)), 0.0), 1.0)


def reliability_diversity_score(accuracy: float, label_counts: Sequence[float]) -> float:
    """s_k = max(a_k, 0) * (d_k + 1e-6): in [0, 1 + 1e-6], computed at the site so that no label count leaves it.

    Args:
        accuracy: a_k in [0, 1], of the site's model after local training.
        label_counts: as in :func:`label_diversity`.

    Raises:
        ValueError: accuracy above 1 or not finite, or bad counts.
    """
    if not math.isfinite(accuracy) or accuracy > 1:
        raise ValueError(f"accuracy must be a finite number in [0, 1], got {accuracy}")
    return max(float(accuracy), 0.0) * (label_diversity(label_counts) + FLOOR)
