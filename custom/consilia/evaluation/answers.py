"""Metrics of answers to questions, with 95 % intervals by patient: closed ones here, open ones in open_answers.py.

The values come from scikit-learn; the intervals from the same formulas with a weight per case, for all resamples at
once (:mod:`consilia.evaluation.bootstrap`). Every value is a plain number or None, which means "undefined here".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from consilia.core.errors import DataError
from consilia.evaluation.bootstrap import Array, grouped, intervals
from consilia.evaluation.open_answers import open_metrics
from consilia.evaluation.weighted import mean_of_defined, ratio, weighted_ranking

__all__ = ["closed_metrics", "open_metrics"]

Truth = NDArray[np.int64]
SMALLEST = float(np.finfo(np.float64).eps)  # as in scikit-learn's log_loss: an answer ruled out costs 36 nats


def closed_metrics(
    probabilities: ArrayLike, truth: ArrayLike, patients: Sequence[str], *, seed: int = 0, resamples: int = 1000
) -> dict[str, Any]:
    """Metrics of ``probabilities`` (N, K) of the candidate answers against ``truth`` (N,) in 0..K-1.

    Keys: ``count``, ``patients``; ``accuracy``, ``balanced_accuracy`` (mean recall over the answers that occur),
    ``auroc``, ``auprc`` (average precision), ``f1``, ``loss`` (mean of -ln p of the true answer); ``intervals``, by
    metric. Two candidates: the positive one is the second. More: plain means over one-against-rest, for AUROC and
    AUPRC over the answers that some cases have and others have not. ``patients`` empty: each case is a patient.
    A case with a probability that is not finite counts as wrong, and then ``auroc``, ``auprc`` and ``loss`` are None.

    Raises:
        DataError: no cases, shapes that do not fit, an answer outside 0..K-1, or rows that are no probabilities.
    """
    scores, answers = _checked(probabilities, truth)
    groups = grouped(patients, len(answers))
    finite = np.isfinite(scores.sum(axis=1))
    # A row of NaN answers nothing: -1 is nobody's truth.
    said = np.where(finite, np.where(finite[:, None], scores, 0.0).argmax(axis=1), -1)
    ranked = bool(finite.all())
    return {
        "count": len(answers),
        "patients": int(groups.max()) + 1,
        **_values(scores, answers, said, ranked),
        "intervals": intervals(
            lambda weights: _weighted(scores, answers, said, ranked, weights), groups, seed=seed, resamples=resamples
        ),
    }


def _values(scores: Array, truth: Truth, said: Truth, ranked: bool) -> dict[str, float | None]:
    """The metrics of all cases, by scikit-learn."""
    from sklearn.metrics import average_precision_score, f1_score, recall_score, roc_auc_score

    shown = _shown(scores)
    # What would be 0 / 0 is undefined, and left out of a macro mean.
    counted = [index for index in shown if ((truth == index) | (said == index)).any()]
    pairs = [(truth == index, scores[:, index]) for index in shown if 0 < (truth == index).sum() < len(truth)]
    present = sorted(set(truth.tolist()))
    usable = ranked and bool(pairs)
    return {
        "accuracy": float((said == truth).mean()),
        "balanced_accuracy": float(recall_score(truth, said, labels=present, average="macro")),
        "auroc": float(np.mean([roc_auc_score(*pair) for pair in pairs])) if usable else None,
        "auprc": float(np.mean([average_precision_score(*pair) for pair in pairs])) if usable else None,
        "f1": float(f1_score(truth, said, labels=counted, average="macro")) if counted else None,
        "loss": float(_losses(scores, truth).mean()) if ranked else None,
    }


def _weighted(scores: Array, truth: Truth, said: Truth, ranked: bool, weights: Array) -> dict[str, Array]:
    """The same metrics (R,) with each row of ``weights`` (R, N); undefined ones NaN."""
    classes, shown = range(scores.shape[1]), _shown(scores)
    total, undefined = weights.sum(axis=1), np.full(len(weights), np.nan)
    right = {index: weights @ ((truth == index) & (said == index)) for index in classes}
    present = {index: weights @ (truth == index) for index in classes}
    answered = {index: weights @ (said == index) for index in classes}
    areas = [weighted_ranking(scores[:, index], truth == index, weights) for index in shown] if ranked else []
    return {
        "accuracy": weights @ (said == truth) / total,
        "balanced_accuracy": mean_of_defined([ratio(right[index], present[index]) for index in classes]),
        "auroc": mean_of_defined([area for area, _ in areas]) if areas else undefined,
        "auprc": mean_of_defined([average for _, average in areas]) if areas else undefined,
        "f1": mean_of_defined([ratio(2 * right[index], present[index] + answered[index]) for index in shown]),
        "loss": weights @ _losses(scores, truth) / total if ranked else undefined,
    }


def _shown(scores: Array) -> range:
    """The candidates of which AUROC, AUPRC and F1 are formed: the second of two, else each against the rest."""
    classes = scores.shape[1]
    return range(1, 2) if classes == 2 else range(classes)


def _losses(scores: Array, truth: Truth) -> Array:
    losses: Array = -np.log(np.clip(scores[np.arange(len(truth)), truth], SMALLEST, 1.0))
    return losses


def _checked(probabilities: ArrayLike, truth: ArrayLike) -> tuple[Array, Truth]:
    scores, answers = np.asarray(probabilities, dtype=np.float64), np.asarray(truth)
    if scores.ndim != 2 or scores.shape[1] < 2 or answers.shape != (len(scores),) or not len(scores):
        raise DataError(
            "metrics of answers need probabilities (N, K) of K >= 2 candidates and N >= 1 true answers, "
            f"got shapes {scores.shape} and {answers.shape}"
        )
    if not np.issubdtype(answers.dtype, np.integer) or answers.min() < 0 or answers.max() >= scores.shape[1]:
        raise DataError(
            f"true answers must be whole numbers from 0 to {scores.shape[1] - 1}, got {answers.dtype} from "
            f"{answers.min()} to {answers.max()}"
        )
    finite = scores[np.isfinite(scores.sum(axis=1))]
    sums = finite.sum(axis=1)
    if finite.size and (finite.min() < 0 or abs(sums - 1).max() > 1e-3):
        raise DataError(
            f"probabilities of the candidates must be at least 0 and add up to 1, got a smallest of {finite.min():.6g} "
            f"and sums from {sums.min():.6g} to {sums.max():.6g}"
        )
    return scores, answers.astype(np.int64)
