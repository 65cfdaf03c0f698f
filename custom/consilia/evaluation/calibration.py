"""How far probabilities can be believed: Brier score, expected calibration error, reliability; and the ROC curve."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from consilia.evaluation.bootstrap import Array
from consilia.evaluation.roc import roc_curve

BINS = 10
"""Of equal width, from 0 to 1."""

FALSE_POSITIVE_RATES = np.linspace(0, 1, 21)
"""At which the ROC curve is given."""


def squared_errors(probabilities: Array, truth: NDArray[np.int64]) -> Array:
    """Half the squared distance (N,) of ``probabilities`` (N, K) from the truth; the mean is the Brier score, in 0..1.

    Of two classes that is (p - y)^2, with p the probability of class 1 and y 1 for a case of it.
    """
    classes = np.arange(probabilities.shape[1])
    found: Array = ((probabilities - (truth[:, None] == classes)) ** 2).sum(axis=1) / 2
    return found


def confidences(probabilities: Array, truth: NDArray[np.int64]) -> tuple[Array, NDArray[np.bool_]]:
    """What calibration compares, (N,) each: a probability, and whether what it is of is true.

    Of two classes the probability of class 1; of more that of the likeliest class.
    """
    if probabilities.shape[1] == 2:
        return probabilities[:, 1], truth == 1
    return probabilities.max(axis=1), truth == probabilities.argmax(axis=1)


def reliability(confidence: Array, true: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Ten bins of equal width: ``count``, mean ``confidence`` and ``observed`` share that is true; None where empty.

    A bin holds what is above its lower end, up to its upper one (as scikit-learn's calibration_curve has it).
    """
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)
    return [
        {
            "count": int(inside.sum()),
            "confidence": float(confidence[inside].mean()) if inside.any() else None,
            "observed": float(true[inside].mean()) if inside.any() else None,
        }
        for inside in (bins == index for index in range(BINS))
    ]


def expected_error(bins: list[dict[str, Any]]) -> float:
    """ECE = sum over bins of n_b / N |confidence_b - observed_b| (Naeini et al., "Obtaining well calibrated
    probabilities using Bayesian binning", 2015)."""
    count = sum(part["count"] for part in bins)
    found = [part["count"] / count * abs(part["confidence"] - part["observed"]) for part in bins if part["count"]]
    return float(sum(found))


def roc_points(scores: Array, positive: NDArray[np.bool_]) -> list[float]:
    """Sensitivity at false-positive rates 0, .05, ... 1, between points of the curve on a straight line.

    Empty without both kinds of cases.
    """
    if positive.all() or not positive.any():
        return []
    false, true, _ = roc_curve(positive, scores)
    return [float(value) for value in np.interp(FALSE_POSITIVE_RATES, false, true)]
