"""Classification: cross-entropy, logits, accuracy and its kin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from consilia.data.dataset import Split
from consilia.evaluation.classification import classification_metrics, correct_cases
from consilia.methods.task import Answers, Network, Task

LOGITS = "logits"


class Classification(Task):
    """One class index per case."""

    most = 256

    def loss(self, network: Network, inputs: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
        """Cross-entropy."""
        return functional.cross_entropy(network(inputs), labels)

    def answer(self, network: Network, inputs: Tensor, labels: Tensor, case_ids: tuple[str, ...]) -> dict[str, Tensor]:
        """Logits (N, C)."""
        return {LOGITS: network(inputs).float().cpu()}

    def nothing(self, split: Split, classes: int) -> dict[str, Tensor]:
        """No logits."""
        return {LOGITS: torch.zeros(0, classes)}

    def figures(self, answers: Answers, split: Split, *, thorough: bool) -> dict[str, Any] | None:
        """See :func:`~consilia.evaluation.classification.classification_metrics`."""
        return classification_metrics(answers[LOGITS], split.labels)

    def right(self, answers: Answers, split: Split) -> Tensor | None:
        """Which cases are right."""
        return correct_cases(answers[LOGITS], split.labels)
