"""Metrics of decisions: accuracy, sensitivity, specificity, predictive values and F1, from weighted counts.

Of two classes the positive one is class 1. Of more, each class is set against the others, and a metric is the plain
mean over the classes where it is defined.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from consilia.evaluation.bootstrap import Array
from consilia.evaluation.weighted import mean_of_defined, ratio

Classes = NDArray[np.int64]

HALF = 0.5
"""The threshold of a model for which none was chosen."""


def decided(positive: Array, threshold: float) -> Classes:
    """Class 1 where the probability of class 1 (N,) is above ``threshold``, else class 0.

    At 0.5 that is the class of the higher logit, as a tie goes to class 0.
    """
    return (positive > threshold).astype(np.int64)


def shown_classes(classes: int) -> range:
    """The classes of which metrics are formed: the second of two, else each against the others."""
    return range(1, 2) if classes == 2 else range(classes)


def decision_metrics(truth: Classes, said: Classes, classes: int, weights: Array) -> Mapping[str, Array]:
    """Metrics (R,) of the decisions ``said`` (N,) by each row of ``weights`` (R, N); undefined ones NaN.

    With TP, FP, FN, TN of a class against the others: sensitivity TP / (TP + FN), specificity TN / (TN + FP), ppv
    TP / (TP + FP), npv TN / (TN + FN), f1 2 TP / (2 TP + FP + FN). Balanced accuracy is the mean recall of the classes
    that occur. -1 in ``said`` stands for no class at all.
    """
    every = np.arange(classes)
    is_class, is_said = truth[:, None] == every, said[:, None] == every
    present, answered, right = (weights @ found for found in (is_class, is_said, is_class & is_said))
    total = weights.sum(axis=1)
    found: dict[str, list[Array]] = {"sensitivity": [], "specificity": [], "ppv": [], "npv": [], "f1": []}
    for index in shown_classes(classes):
        hits, cases, positive = right[:, index], present[:, index], answered[:, index]
        passed = total - cases - positive + hits
        found["sensitivity"].append(ratio(hits, cases))
        found["specificity"].append(ratio(passed, total - cases))
        found["ppv"].append(ratio(hits, positive))
        found["npv"].append(ratio(passed, total - positive))
        found["f1"].append(ratio(2 * hits, cases + positive))
    recalls = [ratio(right[:, index], present[:, index]) for index in every]
    return {
        "accuracy": right.sum(axis=1) / total,
        "balanced_accuracy": mean_of_defined(recalls),
        **{name: mean_of_defined(values) for name, values in found.items()},
    }
