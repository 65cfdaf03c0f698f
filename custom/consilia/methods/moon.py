"""MOON: Li, He and Song, "Model-Contrastive Federated Learning", CVPR 2021.

To the cross-entropy of a batch a site adds mu times the mean over its cases of (Eq. 3)

    l_con = -log( exp(sim(z, z_g) / tau) / (exp(sim(z, z_g) / tau) + exp(sim(z, z_prev) / tau)) ),

with the cosine similarity sim of the case's features: z of the model in training, z_g of the global model received, and
z_prev of the model that this site had at the end of its last round. Both teachers are frozen and in evaluation mode. In
its first round a site has no model of its own yet: the global one stands for it, and the term has no gradient.

z is what enters the head, the model's last linear layer. The paper puts a projection head of two layers before that
(256 features); none is added here, so that all methods of a study train the same network: take a model whose last
hidden layers are one, FourLayerCNN say, or an MLP.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from consilia.methods.client import ClientContext, Round
from consilia.methods.contract import Method, State, Update
from consilia.methods.fit import Batch
from consilia.methods.heads import HeadClient, HeadConfig
from consilia.methods.tasks import network_of
from consilia.models.head import head_name, logits_and_features


class MoonConfig(HeadConfig):
    """MOON's parameters; ``mu`` = 0 is FedAvg."""

    mu: float = Field(1.0, ge=0, description="strength of the contrastive term")
    temperature: float = Field(0.5, gt=0, description="tau of the similarities")


class MoonClient(HeadClient[MoonConfig]):
    """Local training that draws features to those of the global model, away from those of the site's last model."""

    def __init__(self, method: Method[MoonConfig], context: ClientContext) -> None:
        super().__init__(method, context)
        self.previous: dict[str, Tensor] = {}
        """The site's model at the end of its last round; empty before its first."""
        self._teachers: tuple[nn.Module, nn.Module] | None = None

    def train(self, round_: Round) -> Update:
        """Train with the model just received and the site's last one as teachers."""
        self._teachers = None
        if self.config.mu > 0:
            received = self._frozen_model(round_.state)
            self._teachers = received, self._frozen_model(self.previous) if self.previous else received
        self.load(round_.state)
        result = self.fit(round_)
        if self.config.mu > 0:
            self.previous = self.state()
        return self.update(result)

    def _frozen_model(self, state: State) -> nn.Module:
        self.load(state)
        teacher: nn.Module = copy.deepcopy(self.model).eval().requires_grad_(False)
        return teacher

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy + mu l_con; without teachers cross-entropy alone."""
        if self._teachers is None:
            return super().loss(batch)
        weights = self.class_weights.get(batch.dataset)
        logits, own = self._features(self.model, batch.inputs)
        with torch.no_grad():
            received, previous = (self._features(teacher, batch.inputs)[1] for teacher in self._teachers)
        contrast = contrastive_loss(own, received, previous, self.config.temperature)
        return functional.cross_entropy(logits, batch.labels, weight=weights) + self.config.mu * contrast

    def _features(self, model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return logits_and_features(model, self.head, network_of(model, encoded=self.encoder_is_frozen), inputs)

    def state_dict(self) -> dict[str, Any]:
        """The site's last model."""
        return dict(self.previous)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The site's last model."""
        self.previous = dict(state)


def contrastive_loss(own: Tensor, received: Tensor, previous: Tensor, temperature: float) -> Tensor:
    """Mean of l_con over the cases, from features (B, F) each; by log-sum-exp, which no temperature overflows."""
    towards = functional.cosine_similarity(own, received, dim=1) / temperature  # (B,)
    away = functional.cosine_similarity(own, previous, dim=1) / temperature
    return (torch.logaddexp(towards, away) - towards).mean()


class Moon(Method[MoonConfig]):
    """FedAvg; features are drawn to the global model's, away from the site's last ones (Li et al. 2021)."""

    name = "moon"
    Config = MoonConfig
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {"mu": (0.1, 1.0, 5.0, 10.0)}

    def exchanged(self, model: nn.Module) -> list[str]:
        """All that is trained; a model whose head is not known is refused."""
        head_name(model, self.config.head)
        return super().exchanged(model)

    def same_as(self, num_classes: int) -> tuple[str, str] | None:
        """FedAvg without the term."""
        return ("fedavg", "mu = 0 leaves the contrastive term out") if self.config.mu == 0 else None

    def client(self, context: ClientContext) -> MoonClient:
        """The site's half."""
        return MoonClient(self, context)
