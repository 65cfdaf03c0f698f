"""Ditto: Li et al., "Ditto: Fair and Robust Federated Learning Through Personalization", ICML 2021, Algorithm 1.

The global model w is FedAvg's. Beside it every site k keeps a personal model v_k, trained in each of its rounds on

    F_k(v) + (lambda / 2) ||v - w||^2,

where w is the global model that the site has received, before any training. v_k never leaves the site; it begins as the
first global model that the site receives. Training of w_k comes first and knows nothing of v_k: the global model is
FedAvg's to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from consilia.methods.client import Client, ClientContext, Round, proximal_term
from consilia.methods.config import MethodConfig
from consilia.methods.contract import Method, State, Update


class DittoConfig(MethodConfig):
    """Ditto's parameters."""

    lam: float = Field(0.1, ge=0, description="lambda: strength of the pull of personal models to the global one")
    personal_epochs: int = Field(1, ge=1, description="passes over the training cases for the personal model per round")


class DittoClient(Client[DittoConfig]):
    """FedAvg's local training, then a step of the site's own model."""

    def __init__(self, method: Method[DittoConfig], context: ClientContext) -> None:
        super().__init__(method, context)
        self.own: dict[str, Tensor] = {}
        """v_k; empty before the site's first round."""

    def train(self, round_: Round) -> Update:
        """Train w_k, which is sent, and v_k, which is not."""
        update = super().train(round_)
        self.own = self._train_own(round_)
        return update

    def _train_own(self, round_: Round) -> dict[str, Tensor]:
        self.load(round_.state)
        anchor = self.copy_of_parameters()
        # Before its first round a site has no model of its own: it starts from the global one.
        self.load(self.own)
        self.fit(
            round_,
            epochs=self.config.personal_epochs,
            purpose="ditto",
            penalty=lambda: proximal_term(self.parameters, anchor, self.config.lam),
        )
        return self.state()

    def state_for(self, kind: str, global_state: State) -> State:
        """The personal model is v_k."""
        return self.own if kind == "personal" else global_state

    def personalize(self, round_: Round) -> State:
        """v_k as it is; a site that never took part trains it once from the global model."""
        return self.own or self._train_own(round_)

    def state_dict(self) -> dict[str, Any]:
        """v_k."""
        return dict(self.own)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """v_k."""
        self.own = dict(state)


class Ditto(Method[DittoConfig]):
    """FedAvg's global model, and for every site a model of its own that is pulled towards it (Li et al. 2021)."""

    name = "ditto"
    Config = DittoConfig
    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation", "survival")
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {"lam": (0.001, 0.01, 0.1, 1.0)}

    def client(self, context: ClientContext) -> DittoClient:
        """The site's half."""
        return DittoClient(self, context)
