"""FedNTD: Lee et al., "Preservation of the Global Knowledge by Not-True Distillation in Federated Learning",
NeurIPS 2022.

To the cross-entropy a site adds beta tau^2 times the mean over the cases (x, y) of (Eq. 4 and 5)

    KL( softmax(z_g without z_g,y / tau) || softmax(z without z_y / tau) ),

with the logits z of the model in training and z_g of the global model received, frozen and in evaluation mode. The true
class is removed before the softmax: what the global model knows of the other classes is kept, and the local labels
alone say what is true.

With two classes one logit is left, whose softmax is 1 in both models: the term is 0, and FedNTD is FedAvg to the byte.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from consilia.methods.client import Client, ClientContext, Round
from consilia.methods.config import MethodConfig
from consilia.methods.contract import Method, Update
from consilia.methods.fit import Batch
from consilia.methods.tasks import Network

log = logging.getLogger(__name__)

TWO_CLASSES = "with two classes one is left when the true one is removed, and nothing is distilled"


class FedNTDConfig(MethodConfig):
    """FedNTD's parameters; ``beta`` = 0 is FedAvg."""

    beta: float = Field(1.0, ge=0, description="strength of the distillation")
    temperature: float = Field(1.0, gt=0, description="tau of the distillation")


class FedNTDClient(Client[FedNTDConfig]):
    """Local training that keeps the global model's view of the classes that a case does not have."""

    _teacher: Network | None = None

    def train(self, round_: Round) -> Update:
        """Train with the model just received as the teacher."""
        self.load(round_.state)
        same = self.method.same_as(self.data.num_classes)
        if same is not None:
            log.info("site %s: method fedntd is %s here: %s", self.data.site, *same)
        self._teacher = self.frozen_copy() if same is None else None
        return self.update(self.fit(round_))

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy + beta not-true distillation; without a teacher cross-entropy alone."""
        if self._teacher is None:
            return super().loss(batch)
        logits = self.network(batch.inputs)
        with torch.no_grad():
            teacher = self._teacher(batch.inputs)
        fit = functional.cross_entropy(logits, batch.labels, weight=self.class_weights.get(batch.dataset))
        return fit + self.config.beta * not_true_distillation(logits, teacher, batch.labels, self.config.temperature)


def not_true_distillation(logits: Tensor, teacher_logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """tau^2 KL(teacher || student) over the classes that are not true, mean over the cases. Scalar.

    Args:
        logits: z (B, C) of the model in training.
        teacher_logits: z_g (B, C) of the global model.
        targets: true classes (B,).
        temperature: tau > 0.
    """
    student, teacher = (_without(values, targets) / temperature for values in (logits, teacher_logits.detach()))
    divergence = functional.kl_div(
        functional.log_softmax(student, dim=1),
        functional.log_softmax(teacher, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence


def _without(logits: Tensor, targets: Tensor) -> Tensor:
    """(B, C) -> (B, C - 1): the logits of all classes but the true one of each case."""
    cases, classes = logits.shape
    others = torch.arange(classes, device=logits.device) != targets.unsqueeze(1)
    return logits[others].reshape(cases, classes - 1)


class FedNTD(Method[FedNTDConfig]):
    """FedAvg; the global model's view of the classes that a case does not have is distilled (Lee et al. 2022)."""

    name = "fedntd"
    Config = FedNTDConfig
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {"beta": (0.1, 0.3, 1.0, 3.0)}

    def same_as(self, num_classes: int) -> tuple[str, str] | None:
        """FedAvg with two classes, or without the distillation."""
        if self.config.beta == 0:
            return "fedavg", "beta = 0 leaves the distillation out"
        return ("fedavg", TWO_CLASSES) if num_classes <= 2 else None

    def client(self, context: ClientContext) -> FedNTDClient:
        """The site's half."""
        return FedNTDClient(self, context)
