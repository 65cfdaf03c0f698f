"""FedProx at a site: cross-entropy plus (mu / 2) ||theta - theta_g||^2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from consilia.methods.fedprox.config import FedProxConfig
from consilia.methods.learner import Learner


def proximal_term(parameters: Iterable[Tensor], anchors: Sequence[Tensor], mu: float) -> Tensor:
    """(mu / 2) ||theta - theta_g||^2 over all parameters: Li et al. 2020, Eq. 2. Scalar."""
    squares = [(now - then).square().sum() for now, then in zip(parameters, anchors, strict=True)]
    return 0.5 * mu * torch.stack(squares).sum()


class FedProxLearner(Learner[FedProxConfig]):
    """Local training that is pulled back to the parameters it started from."""

    def begin(self) -> None:
        """Keep the global parameters as the anchor."""
        self._anchors = [parameter.detach().clone() for parameter in self.model.parameters()]

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy plus the proximal term."""
        fit = nn.functional.cross_entropy(self.model(inputs), labels)
        return fit + proximal_term(self.model.parameters(), self._anchors, self.config.mu)
