"""Survival: Cox's partial likelihood, Harrell's concordance index, and the metrics of one model on one split.

N cases have a time t_i >= 0 and an event e_i, 1 if the follow-up ended with it and 0 if the case was censored; a model
gives each a log hazard s_i, of which only the differences mean anything. Labels (N, 2) float64 hold (t_i, e_i).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from consilia.core.errors import DataError
from consilia.evaluation.bootstrap import RESAMPLES, Array, errors_and_intervals, grouped
from consilia.evaluation.pairs import survival_pairs
from consilia.evaluation.weighted import ratio


def cox_loss(log_hazards: Tensor, labels: Tensor) -> Tensor:
    """The negative log partial likelihood divided by N; scalar float64, 0 without an event.

    -1/N sum over i with e_i = 1 of [s_i - log sum over j with t_j >= t_i of exp(s_j)]: Cox 1972, with Breslow's
    handling of equal times (1974), under which each event of a time is at risk with all others of it.

    It is no mean over cases: the term of an event depends on all cases that are at risk then.

    Args:
        log_hazards: s, (N,).
        labels: (t, e), (N, 2) float64.
    """
    order = torch.argsort(labels[:, 0], descending=True, stable=True)
    (times, events), scores = labels[order].unbind(dim=1), log_hazards[order].double()
    so_far = torch.logcumsumexp(scores, dim=0)
    # The last of each group of equal times has the whole risk set of the group before it.
    last = torch.searchsorted(-times, -times, right=True) - 1
    return ((so_far[last] - scores) * events).sum() / max(len(scores), 1)


def concordance(log_hazards: Array, labels: Array, weights: Array) -> Array:
    """Harrell's C (R,) with each row of ``weights`` (R, N); NaN where no two cases can be compared.

    See :func:`~consilia.evaluation.pairs.survival_pairs`.

    Args:
        log_hazards: s, (N,), finite.
        labels: (t, e), (N, 2).
        weights: (R, N).
    """
    return ratio(*survival_pairs(labels[:, 0], labels[:, 1] > 0, log_hazards, weights))


def survival_metrics(
    log_hazards: Tensor, labels: Tensor, patients: Sequence[str] | None = None, *, resamples: int = RESAMPLES
) -> dict[str, Any] | None:
    """Metrics of ``log_hazards`` (N,) against ``labels`` (N, 2); None for an empty split.

    Keys: ``count`` and ``events`` (cases), ``c_index`` (:func:`concordance`), ``loss`` (:func:`cox_loss`); with
    ``patients`` (of each case; empty: every case is a patient) also their number and the ``intervals`` by patient
    bootstrap. ``c_index`` and ``loss`` are None without an event, and of log hazards that are not all finite.

    Raises:
        DataError: shapes do not fit, or there is not one patient for each case.
    """
    if labels.ndim != 2 or labels.shape[1] != 2 or log_hazards.shape != (len(labels),):
        raise DataError(
            "survival metrics need log hazards (N,) and labels (N, 2), "
            f"got {tuple(log_hazards.shape)} and {tuple(labels.shape)}"
        )
    if not len(labels):
        return None
    scores, truth = log_hazards.detach().cpu().double(), labels.detach().cpu().double()
    defined = bool(scores.isfinite().all()) and bool(truth[:, 1].any())
    values = concordance(scores.numpy(), truth.numpy(), np.ones((1, len(truth)))) if defined else np.array([np.nan])
    found: dict[str, Any] = {
        "count": len(truth),
        "events": int(truth[:, 1].sum()),
        "c_index": None if np.isnan(values[0]) else float(values[0]),
        "loss": float(cox_loss(scores, truth)) if defined else None,
    }
    if patients is None:
        return found
    groups = grouped(patients, len(truth))
    found["patients"] = int(groups.max()) + 1
    if found["c_index"] is not None:
        found["intervals"] = errors_and_intervals(
            lambda weights: {"c_index": concordance(scores.numpy(), truth.numpy(), weights)},
            groups,
            seed=0,
            resamples=resamples,
        )
    return found
