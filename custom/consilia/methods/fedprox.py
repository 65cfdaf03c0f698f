"""FedProx: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020.

A site minimises its loss plus (mu / 2) ||theta - theta_g||^2 (Eq. 2); the server averages as FedAvg does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from consilia.methods.client import Client, ClientContext, Round, proximal_term
from consilia.methods.config import MethodConfig
from consilia.methods.contract import Method, Update


class FedProxConfig(MethodConfig):
    """FedProx; ``mu`` = 0 is FedAvg."""

    mu: float = Field(0.1, ge=0, description="strength of the proximal term")


class FedProxClient(Client[FedProxConfig]):
    """Local training that is pulled back to the parameters it started from."""

    def train(self, round_: Round) -> Update:
        """Local training with the proximal term over what is trained."""
        self.load(round_.state)
        anchor = self.copy_of_parameters()
        return self.update(self.fit(round_, penalty=lambda: proximal_term(self.parameters, anchor, self.config.mu)))


class FedProx(Method[FedProxConfig]):
    """FedAvg with a proximal term at the sites."""

    name = "fedprox"
    Config = FedProxConfig
    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation", "survival")
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {"mu": (0.001, 0.01, 0.1, 1.0)}

    def same_as(self, num_classes: int) -> tuple[str, str] | None:
        """FedAvg without the term."""
        return ("fedavg", "mu = 0 leaves the proximal term out") if self.config.mu == 0 else None

    def client(self, context: ClientContext) -> FedProxClient:
        """The site's half."""
        return FedProxClient(self, context)
