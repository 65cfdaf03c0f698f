"""One model's answers on a site's own cases, as the site's report needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from consilia.core.errors import DataError
from consilia.data.dataset import Split
from consilia.evaluation.calibration import confidences
from consilia.evaluation.classification import detailed_metrics
from consilia.evaluation.decisions import HALF

SURE = 0.9
"""A model is called sure of an answer from this probability on."""

NO_ANSWER = -1


@dataclass(frozen=True)
class Answers:
    """A model's answers on N labelled cases of C classes.

    Args:
        name: of the model, such as ``global``.
        logits: (N, C).
        labels: (N,) int64.
        patients: of each case; empty where they are not known.
        threshold: of two classes, the probability of class 1 above which it is the answer; None: 0.5.
    """

    name: str
    logits: Tensor
    labels: Tensor
    patients: tuple[str, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.logits.ndim != 2 or len(self.logits) != len(self.labels):
            raise DataError(
                f"site report: expected {self.name} logits of {len(self.labels)} cases, got {tuple(self.logits.shape)}"
            )

    @property
    def classes(self) -> int:
        """How many there are."""
        return self.logits.shape[1]

    @property
    def limit(self) -> float:
        """The threshold, 0.5 where the model has none."""
        return HALF if self.threshold is None else self.threshold

    @cached_property
    def metrics(self) -> Mapping[str, Any]:
        """See :func:`~consilia.evaluation.classification.detailed_metrics`; empty without cases."""
        return detailed_metrics(self.logits, self.labels, self.patients, self.threshold) or {}

    @cached_property
    def probabilities(self) -> Tensor:
        """(N, C) float64; NaN in the rows of cases for which the model gave what is not a number."""
        found = self.logits.detach().cpu().double().softmax(dim=1)
        return torch.where(self.finite[:, None], found, torch.nan)

    @cached_property
    def finite(self) -> Tensor:
        """Which cases got numbers at all: (N,) bool."""
        return self.logits.detach().cpu().isfinite().all(dim=1)

    @cached_property
    def likeliest(self) -> Tensor:
        """The likeliest class (N,), :data:`NO_ANSWER` where there are no numbers."""
        return torch.where(self.finite, self.logits.detach().cpu().argmax(dim=1), NO_ANSWER)

    @cached_property
    def answers(self) -> Tensor:
        """Of two classes the answer at the threshold, of more the likeliest class (N,)."""
        if self.classes != 2:
            return self.likeliest
        return torch.where(self.finite, (self.probabilities[:, 1] > self.limit).long(), NO_ANSWER)

    @cached_property
    def right(self) -> Tensor:
        """Which answers are right: (N,) bool."""
        return self.answers == self.labels

    @cached_property
    def confusion(self) -> Tensor:
        """(C, C) cases by true class and answer; cases without an answer are in none."""
        matrix = torch.zeros(self.classes, self.classes, dtype=torch.int64)
        chosen = self.answers != NO_ANSWER
        places = (self.labels[chosen], self.answers[chosen])
        return matrix.index_put_(places, torch.ones_like(places[0]), accumulate=True)

    @cached_property
    def sure_and_wrong(self) -> Tensor:
        """Cases whose true class got at most 1 - :data:`SURE` while another got :data:`SURE` or more: (N,) bool."""
        return (self.probabilities.amax(dim=1) >= SURE) & (self.likeliest != self.labels)

    @cached_property
    def confidences(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the cases with numbers, a probability and whether what it is of is so: what calibration compares."""
        return confidences(self.probabilities[self.finite].numpy(), self.labels[self.finite].numpy())

    def of_class(self, index: int) -> Tensor:
        """Which cases are of a class: (N,) bool."""
        return self.labels == index

    def interval(self, name: str) -> Mapping[str, float] | None:
        """``low`` and ``high`` of a metric over draws of the patients, by its name in the record."""
        found: Mapping[str, float] | None = self.metrics.get("intervals", {}).get(name)
        return found


def named_patients(split: Split) -> tuple[str, ...]:
    """The patient of each case; empty where site.yaml names no patient, and every case's id stands for one."""
    return () if split.patients == split.case_ids else split.patients


def patients_of(patients: Sequence[str], which: Tensor) -> int | None:
    """How many patients the chosen cases (N,) bool are of; None where patients are not known."""
    return len({patients[index] for index in which.nonzero()[:, 0].tolist()}) if patients else None
