"""FedKPer at a site: train with the gated pull towards the global model, then score the result."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor

from consilia.core.errors import ConfigError
from consilia.methods.classification import LOGITS
from consilia.methods.fedkper.alignment import selective_alignment_loss
from consilia.methods.fedkper.config import FedKPerConfig
from consilia.methods.fedkper.reliability import reliability_diversity_score
from consilia.methods.learner import FLIPS, Learner
from consilia.methods.task import Network, network_of


class FedKPerLearner(Learner[FedKPerConfig]):
    """Knowledge personalisation (specification 2) and the site's half of the aggregation score (specification 3)."""

    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    def begin(self) -> None:
        """Freeze a copy of the model just downloaded as the teacher, in evaluation mode."""
        self._teacher = self._frozen_copy() if self.config.gate_cap > 0 else None

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Equation L(B) of specification 2.1; without a teacher, cross-entropy alone."""
        if self._teacher is None:
            return super().loss(inputs, labels)
        logits = self.network(inputs)
        with torch.no_grad():
            teacher_logits = self._teacher(inputs)
        return selective_alignment_loss(
            logits,
            teacher_logits,
            labels,
            temperature=self.config.temperature,
            gate_cap=self.config.gate_cap,
            gate=self.config.gate,
        )

    def score(self) -> tuple[float | None, dict[str, float]]:
        """s_k = a_k (d_k + 1e-6) with a_k rounded to four decimals as released; the label counts stay here."""
        if self.config.weighting == "samples":
            return None, {}
        split = self.data.split(self.config.reliability)
        if len(split) == 0:
            raise ConfigError(f"reliability: {self.config.reliability} needs cases in that split, the site has none")
        correct = int((self.answers(split)[LOGITS].argmax(dim=1) == split.labels).sum())
        accuracy = round(correct / len(split), 4)
        counts = torch.bincount(self.data.train.labels, minlength=self.data.num_classes).tolist()
        return reliability_diversity_score(accuracy, counts), {f"{self.config.reliability}_accuracy": accuracy}

    @classmethod
    def tells(cls, config: FedKPerConfig) -> frozenset[str]:
        """Also the score and the accuracy in it, where the server weighs by them."""
        return FLIPS if config.weighting == "samples" else FLIPS | {"score", f"{config.reliability}_accuracy"}

    def _frozen_copy(self) -> Network:
        return network_of(copy.deepcopy(self.model).eval().requires_grad_(False), encoded=self.encoder_is_frozen)
