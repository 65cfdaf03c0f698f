"""Classification: cross-entropy, logits, accuracy and its kin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from consilia.data.dataset import Split
from consilia.evaluation.classification import classification_metrics, correct_cases
from consilia.methods.tasks.base import Network, Predictions, Task

LOGITS = "logits"


class Classification(Task):
    """One class index per case."""

    most = 256

    def loss(self, network: Network, inputs: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
        """Cross-entropy."""
        return functional.cross_entropy(network(inputs), labels)

    def predict(self, network: Network, inputs: Tensor, labels: Tensor, case_ids: tuple[str, ...]) -> dict[str, Tensor]:
        """Logits (N, C)."""
        return {LOGITS: network(inputs).float().cpu()}

    def empty_predictions(self, split: Split, classes: int) -> dict[str, Tensor]:
        """No logits."""
        return {LOGITS: torch.zeros(0, classes)}

    def metrics(self, predictions: Predictions, split: Split, *, slow: bool) -> dict[str, Any] | None:
        """See :func:`~consilia.evaluation.classification.classification_metrics`."""
        return classification_metrics(predictions[LOGITS], split.labels)

    def is_correct(self, predictions: Predictions, split: Split) -> Tensor | None:
        """Which cases are classified correctly."""
        return correct_cases(predictions[LOGITS], split.labels)
