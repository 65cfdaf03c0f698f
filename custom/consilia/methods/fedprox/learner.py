"""FedProx at a site: the task's loss plus (mu / 2) ||theta - theta_g||^2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from consilia.methods.fedprox.config import FedProxConfig
from consilia.methods.learner import Learner


def proximal_term(parameters: Iterable[Tensor], anchors: Sequence[Tensor], mu: float) -> Tensor:
    """(mu / 2) ||theta - theta_g||^2 over the trained parameters: Li et al. 2020, Eq. 2. Scalar."""
    squares = [(now - then).square().sum() for now, then in zip(parameters, anchors, strict=True)]
    return 0.5 * mu * torch.stack(squares).sum()


class FedProxLearner(Learner[FedProxConfig]):
    """Local training that is pulled back to the parameters it started from."""

    def begin(self) -> None:
        """Keep the global parameters as the anchor."""
        self._anchors = [parameter.detach().clone() for parameter in self.trained]

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The task's loss plus the proximal term over what is trained."""
        return super().loss(inputs, labels) + proximal_term(self.trained, self._anchors, self.config.mu)
