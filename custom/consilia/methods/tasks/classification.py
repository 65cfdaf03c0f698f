"""Classification: cross-entropy, logits, accuracy and its kin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from consilia.data.dataset import Split
from consilia.evaluation.classification import (
    choose_threshold,
    classification_metrics,
    correct_cases,
    detailed_metrics,
)
from consilia.methods.tasks.base import Network, Predictions, Task

LOGITS = "logits"


class Classification(Task):
    """One class index per case."""

    most = 256

    def loss(
        self,
        network: Network,
        inputs: Tensor,
        labels: Tensor,
        draw: torch.Generator,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Cross-entropy: the mean over the cases; with weights w the weighted mean, sum_i w_yi l_i / sum_i w_yi."""
        return functional.cross_entropy(network(inputs), labels, weight=class_weights)

    def prediction_shape(self, labels: Tensor, classes: int) -> tuple[int, ...]:
        """(N, C)."""
        return (len(labels), classes)

    def fewest_cases(self, split: Split, classes: int) -> int:
        """The cases of the rarest class."""
        return int(split.labels.bincount(minlength=classes).min())

    def predict(self, network: Network, inputs: Tensor, labels: Tensor, case_ids: tuple[str, ...]) -> dict[str, Tensor]:
        """Logits (N, C)."""
        return {LOGITS: network(inputs).float().cpu()}

    def empty_predictions(self, split: Split, classes: int) -> dict[str, Tensor]:
        """No logits."""
        return {LOGITS: torch.zeros(0, classes)}

    def metrics(
        self, predictions: Predictions, split: Split, *, slow: bool, threshold: float | None = None
    ) -> dict[str, Any] | None:
        """See :func:`~consilia.evaluation.classification.classification_metrics`, if ``slow`` ``detailed_metrics``."""
        if slow:
            return detailed_metrics(predictions[LOGITS], split.labels, split.patients, threshold)
        return classification_metrics(predictions[LOGITS], split.labels)

    def threshold(self, predictions: Predictions, split: Split) -> float | None:
        """See :func:`~consilia.evaluation.classification.choose_threshold`."""
        return choose_threshold(predictions[LOGITS], split.labels)

    def by_case(self, predictions: Predictions, split: Split) -> dict[str, Tensor]:
        """``label``, and the probability of each class: ``p0``, ``p1`` and so on."""
        probabilities = predictions[LOGITS].double().softmax(dim=1)
        return {"label": split.labels, **{f"p{place}": column for place, column in enumerate(probabilities.T)}}

    def is_correct(self, predictions: Predictions, split: Split) -> Tensor | None:
        """Which cases are classified correctly."""
        return correct_cases(predictions[LOGITS], split.labels)


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights (C,) by inverse frequency, w_c = n / (K n_c), of K classes that occur among n labels (n,); else 0.

    The mean weight of the n cases is 1.
    """
    counts = torch.bincount(labels, minlength=classes).double()
    present = counts > 0
    weights = len(labels) / (present.sum() * counts.clamp(min=1))
    return torch.where(present, weights, 0).float()
