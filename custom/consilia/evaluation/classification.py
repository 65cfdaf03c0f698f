"""Metrics of one model on one split: counts, accuracy, balanced accuracy, AUROC and loss.

Every value is a plain Python number or None; None means "undefined here", and NaN never leaves this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from consilia.core.errors import DataError


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
    from sklearn.metrics import roc_auc_score

    classes = [1] if logits.shape[1] == 2 else range(logits.shape[1])
    areas = []
    for index in classes:
        positive = labels == index
        if positive.any() and not positive.all():
            areas.append(float(roc_auc_score(positive.numpy(), _log_odds(logits, index).numpy())))
    return sum(areas) / len(areas) if areas else None


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
