"""Metrics of one model on one split: those of every round, and those of a final evaluation.

Every value is a plain Python number or None; None means "undefined here", and NaN never leaves this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from consilia.core.errors import DataError
from consilia.evaluation.bootstrap import RESAMPLES, Array, errors_and_intervals, grouped
from consilia.evaluation.calibration import confidences, expected_error, reliability, roc_points, squared_errors
from consilia.evaluation.decisions import HALF, Classes, decided, decision_metrics, shown_classes
from consilia.evaluation.roc import area_under, roc_curve
from consilia.evaluation.weighted import mean_of_defined, weighted_ranking


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, float | int | None] | None:
    """Metrics of ``logits`` (N, C) against ``labels`` (N,) int64; None for an empty split.

    Keys: ``count`` and ``correct`` (cases), ``accuracy`` and ``balanced_accuracy`` (fractions; the latter is the mean
    recall over the classes present), ``auroc`` (see :func:`auroc`), ``loss`` (mean cross-entropy in nats).
    A case with a non-finite logit counts as wrong, and then ``auroc`` and ``loss`` are None.

    Raises:
        DataError: shapes do not fit, or a label lies outside 0..C-1.
    """
    _check(logits, labels)
    count = len(labels)
    if count == 0:
        return None
    scores, truth = logits.detach().cpu().double(), labels.detach().cpu()
    hits = correct_cases(scores, truth)
    recalls = [hits[truth == present].double().mean() for present in sorted(set(truth.tolist()))]
    finite = bool(scores.isfinite().all())
    loss = float(torch.nn.functional.cross_entropy(scores, truth)) if finite else None
    return {
        "count": count,
        "correct": int(hits.sum()),
        "accuracy": int(hits.sum()) / count,
        "balanced_accuracy": float(torch.stack(recalls).mean()),
        "auroc": auroc(scores, truth) if finite else None,
        "loss": loss,
    }


def choose_threshold(logits: Tensor, labels: Tensor) -> float | None:
    """The threshold on the probability of class 1 with the largest sensitivity + specificity - 1 (Youden's J).

    It lies half way between two cases' probabilities; of thresholds that are equally good the one nearest to 0.5. None
    where there is nothing to choose by: not two classes, no case of one of them, a logit that is not finite, or no
    threshold better than one answer for all.
    """
    _check(logits, labels)
    positive = (labels.detach().cpu() == 1).numpy()
    if logits.shape[1] != 2 or not logits.isfinite().all() or not positive.any() or positive.all():
        return None
    false, true, probabilities = roc_curve(positive, _probabilities(logits)[:, 1], corners=False)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    # In whole cases, so that equally good ones are equal.
    gain = np.rint(true * positives) * negatives - np.rint(false * negatives) * positives
    if gain.max() <= 0:
        return None
    # The last point, one answer for all, has no gain: there is a lower probability below each of the best.
    best = np.flatnonzero(gain == gain.max())
    above, below = probabilities[best], probabilities[best + 1]
    middle = (above + below) / 2
    # Between neighbouring floats there is nothing.
    chosen = np.where(middle < above, middle, below)
    return float(chosen[np.abs(chosen - HALF).argmin()])


def detailed_metrics(
    logits: Tensor,
    labels: Tensor,
    patients: Sequence[str] = (),
    threshold: float | None = None,
    *,
    resamples: int = RESAMPLES,
) -> dict[str, Any] | None:
    """What a final evaluation has beside :func:`classification_metrics`; None for an empty split.

    Keys: ``patients``, and ``positives`` (cases of class 1) of two classes; ``auprc`` (average precision), ``brier``,
    ``ece`` (10 bins); ``operating`` at ``threshold`` and ``at_half`` at 0.5, by the names of
    :func:`~consilia.evaluation.decisions.decision_metrics`; ``intervals`` by patient bootstrap, named
    ``operating.sensitivity`` say; ``curves`` (``roc``, ``reliability``). Of more than two classes there is no
    threshold: ``operating`` is of the likeliest class, ``at_half`` None, ``auprc`` a mean as AUROC is. A case with a
    logit that is not finite counts as wrong, and then ``auprc``, ``brier``, ``ece`` and ``curves`` are None.

    Args:
        logits: (N, C).
        labels: (N,) int64.
        patients: of each case; empty: every case is a patient.
        threshold: the model's, on the probability of class 1; None stands for 0.5.
        resamples: draws of the patients.

    Raises:
        DataError: shapes do not fit, a label lies outside 0..C-1, or there is not one patient for each case.
    """
    plain = classification_metrics(logits, labels)
    if plain is None:
        return None
    truth, groups = labels.detach().cpu().numpy().astype(np.int64), grouped(patients, len(labels))
    cases = _Cases(logits, truth, HALF if threshold is None else threshold)
    values = {name: _number(found) for name, found in cases.weighted(np.ones((1, len(truth)))).items()}
    bins = reliability(*confidences(cases.probabilities, truth)) if cases.finite else None
    two = cases.classes == 2
    return {
        **plain,
        "patients": int(groups.max()) + 1,
        "positives": int((truth == 1).sum()) if two else None,
        "auprc": values["auprc"],
        "brier": values["brier"],
        "ece": expected_error(bins) if bins else None,
        "operating": {"threshold": cases.threshold if two else None, **_below("operating", values)},
        "at_half": {"threshold": HALF, **_below("at_half", values)} if two else None,
        "intervals": errors_and_intervals(cases.weighted, groups, seed=0, resamples=resamples),
        "curves": {"roc": cases.roc(), "reliability": bins} if bins else None,
    }


class _Cases:
    """The cases of one split as a model sees them; metrics of them by weights."""

    def __init__(self, logits: Tensor, truth: Classes, threshold: float) -> None:
        scores = logits.detach().cpu().double()
        self.truth, self.threshold, self.classes = truth, threshold, scores.shape[1]
        finite = scores.isfinite().all(dim=1).numpy()
        self.finite = bool(finite.all())
        self.probabilities = _probabilities(scores)
        self.said = np.where(finite, scores.nan_to_num().argmax(dim=1).numpy(), self._wrong())
        self.decisions = {"operating": self.said}
        if self.classes == 2:
            for name, where in (("operating", threshold), ("at_half", HALF)):
                self.decisions[name] = np.where(finite, decided(self.probabilities[:, 1], where), self._wrong())
        shown = shown_classes(self.classes) if self.finite else ()
        self.odds = {index: _log_odds(scores, index).numpy() for index in shown}

    def _wrong(self) -> Classes:
        """What stands for the answer of a case with a logit that is not finite: the other of two classes, or none."""
        return 1 - self.truth if self.classes == 2 else np.full_like(self.truth, -1)

    def weighted(self, weights: Array) -> dict[str, Array]:
        """Every metric that has an interval, (R,), by each row of ``weights`` (R, N)."""
        undefined = np.full(len(weights), np.nan)
        ranked = [weighted_ranking(odds, self.truth == index, weights) for index, odds in self.odds.items()]
        whole = decision_metrics(self.truth, self.said, self.classes, weights)
        found = {
            "accuracy": whole["accuracy"],
            "balanced_accuracy": whole["balanced_accuracy"],
            "auroc": mean_of_defined([area for area, _ in ranked]) if ranked else undefined,
            "auprc": mean_of_defined([average for _, average in ranked]) if ranked else undefined,
            "brier": undefined,
        }
        if self.finite:
            found["brier"] = weights @ squared_errors(self.probabilities, self.truth) / weights.sum(axis=1)
        for place, said in self.decisions.items():
            parts = whole if said is self.said else decision_metrics(self.truth, said, self.classes, weights)
            found |= {f"{place}.{name}": values for name, values in parts.items()}
        return found

    def roc(self) -> list[float]:
        """See :func:`~consilia.evaluation.calibration.roc_points`; empty of more than two classes."""
        return roc_points(self.odds[1], self.truth == 1) if self.classes == 2 else []


def _number(found: Array) -> float | None:
    value = float(found[0])
    return None if np.isnan(value) else value


def _below(place: str, values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name.removeprefix(f"{place}."): value for name, value in values.items() if name.startswith(f"{place}.")}


def combined_metrics(tasks: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Metrics of several tasks as one: cases are summed, means are over the tasks where a metric is defined.

    A task without cases has None; so has the whole, if none has any.
    """
    there = {task: metrics for task, metrics in tasks.items() if metrics is not None}
    if not there:
        return None
    count, correct = (sum(metrics[key] for metrics in there.values()) for key in ("count", "correct"))
    means = {}
    for key in ("balanced_accuracy", "auroc", "loss"):
        defined = [metrics[key] for metrics in there.values() if metrics[key] is not None]
        means[key] = sum(defined) / len(defined) if defined else None
    return {"count": count, "correct": correct, "accuracy": correct / count, **means, "tasks": there}


def correct_cases(logits: Tensor, labels: Tensor) -> Tensor:
    """Which cases the model gets right: (N,) bool. Ties go to the lowest class; a non-finite row is never right."""
    return (logits.argmax(dim=1) == labels) & logits.isfinite().all(dim=1)


def auroc(logits: Tensor, labels: Tensor) -> float | None:
    """Area under the ROC curve of finite ``logits`` (N, C); ties count one half.

    Two classes: the score is the probability of class 1. More: the plain mean of the one-vs-rest areas over the
    classes that have both positives and negatives in ``labels``. None where no class has both.
    """
    classes = [1] if logits.shape[1] == 2 else range(logits.shape[1])
    areas = []
    for index in classes:
        positive = labels == index
        if positive.any() and not positive.all():
            areas.append(area_under(roc_curve(positive.numpy(), _log_odds(logits, index).numpy())))
    return sum(areas) / len(areas) if areas else None


def _probabilities(logits: Tensor) -> Array:
    found: Array = logits.detach().cpu().double().softmax(dim=1).numpy()
    return found


def _log_odds(logits: Tensor, index: int) -> Tensor:
    """Log-odds of one class (N,): same order as its probability, but confident cases do not all round to 1 and tie."""
    others = torch.cat([logits[:, :index], logits[:, index + 1 :]], dim=1).double()
    return logits[:, index].double() - torch.logsumexp(others, dim=1)


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.ndim != 1 or len(logits) != len(labels):
        raise DataError(
            "metrics need logits (N, C) with C >= 2 and labels (N,), "
            f"got logits {tuple(logits.shape)} and labels {tuple(labels.shape)}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise DataError(f"labels must lie in 0..{logits.shape[1] - 1}, got {int(labels.min())}..{int(labels.max())}")
