"""FedCurv: Shoham et al., "Overcoming Forgetting in Federated Learning on Non-IID Data", NeurIPS workshop 2019, Eq. 3.

A site k minimises, with the models theta_j that the other sites have last sent and their Fisher information F_j,

    F_k(theta) + lambda sum_{j != k} (theta - theta_j)^T diag(F_j) (theta - theta_j),

whose second term has the gradient 2 lambda (A theta - B) with A = sum_{j != k} F_j and B = sum_{j != k} F_j theta_j. A
site therefore sends F_k and F_k theta_k beside its model, three times the upload of FedAvg, and the server sends both
sums. A site takes its own terms off them: it keeps what it has last sent. It sends its terms as changes against those
of before, so that a site that is not sampled stays in the sums with its last terms.

F_k is the diagonal of the *empirical* Fisher information: the mean over the site's training cases of the squared
gradient of each single case's loss with its own label, at the weights after local training, in evaluation mode, without
augmentation. (The true one would draw labels from the model.) Only trained parameters have it, buffers do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from consilia.methods.client import Client, ClientContext, Round
from consilia.methods.config import MethodConfig
from consilia.methods.contract import Method, State, TensorSpec, Update
from consilia.methods.server import Mean, Server, ServerContext

FISHER, PRODUCT, CHANGE = "fisher.", "fisher_product.", "change_of."
"""In names of tensors: F, F theta, and what a site's terms have changed by."""

MAX_SUM_NORM = 1e6
"""Of a sum over all sites, each of whose terms has a norm of at most a thousand."""


class FedCurvConfig(MethodConfig):
    """FedCurv; ``lam`` = 0 is FedAvg."""

    lam: float = Field(1.0, ge=0, description="lambda: strength of the pull towards what other sites' models rest on")


class FedCurvClient(Client[FedCurvConfig]):
    """Local training that spares what the other sites' models rest on; keeps the terms that the site has last sent."""

    def __init__(self, method: Method[FedCurvConfig], context: ClientContext) -> None:
        super().__init__(method, context)
        self.sent: dict[str, Tensor] = {}
        """F_k and F_k theta_k as the changes that were sent add up to them; empty before the first."""

    def train(self, round_: Round) -> Update:
        """Train with the other sites' terms, and renew the site's own."""
        self.load(round_.state)
        others = {key: self._others(key, total).to(self.device) for key, total in round_.payload.items()}

        def pull() -> None:
            for name, parameter in self.parameters.items():
                gradient = others[FISHER + name] * parameter.detach() - others[PRODUCT + name]
                gradient *= 2 * self.config.lam
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

        result = self.fit(round_, after_backward=pull)
        fisher = self._fisher()
        terms = {FISHER + name: value for name, value in fisher.items()}
        terms |= {PRODUCT + name: value * self.parameters[name].detach() for name, value in fisher.items()}
        changes = {key: term.cpu() - self.sent.get(key, 0) for key, term in terms.items()}
        self.sent = {key: change + self.sent.get(key, 0) for key, change in changes.items()}
        return self.update(result, extras={CHANGE + key: change for key, change in changes.items()})

    def _others(self, key: str, total: Tensor) -> Tensor:
        """The sum without the site's own term; of Fisher information what rounding leaves below zero is zero."""
        rest = total - self.sent.get(key, 0)
        return rest.clamp_min(0) if key.startswith(FISHER) else rest

    def _fisher(self) -> dict[str, Tensor]:
        """Mean of the squared gradients of single cases, by parameter."""
        self.model.eval()
        parameters, cases = list(self.parameters.values()), len(self.data.train)
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        for batch in self.batches_of(torch.arange(cases).split(1)):
            gradients = torch.autograd.grad(self.loss(batch), parameters, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total += gradient.square()
        return {name: total / cases for name, total in zip(self.parameters, sums, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """The terms that the site has last sent."""
        return dict(self.sent)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The terms that the site has last sent."""
        self.sent = dict(state)


class FedCurvServer(Server[FedCurvConfig]):
    """Holds the sums of all sites' last terms."""

    def __init__(self, method: Method[FedCurvConfig], context: ServerContext) -> None:
        super().__init__(method, context)
        specs = method.payload(context.model())
        self.sums = {key: torch.zeros(spec.shape) for key, spec in specs.items()}

    def payload(self, round_number: int) -> State:
        """Both sums, by parameter."""
        return self.sums

    def step(self, previous: State, mean: Mean, round_number: int) -> State:
        """FedAvg's mean; the sums move by what the round's sites have changed."""
        for key, total in self.sums.items():
            self.sums[key] = total + mean.sites * mean.extras[CHANGE + key]
        return mean.state

    def state_dict(self) -> dict[str, Any]:
        """Both sums, by parameter."""
        return dict(self.sums)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Both sums, by parameter."""
        self.sums = dict(state)


class FedCurv(Method[FedCurvConfig]):
    """FedAvg whose sites spare the weights that other sites' models rest on, by Fisher information (Shoham 2019)."""

    name = "fedcurv"
    Config = FedCurvConfig
    robust: ClassVar[bool] = False  # a site takes its own terms off sums that must hold them
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {"lam": (0.01, 0.1, 1.0, 10.0)}

    def extras(self, model: nn.Module) -> dict[str, TensorSpec]:
        """What F_k and F_k theta_k have changed by."""
        return {CHANGE + key: TensorSpec(spec.shape) for key, spec in self.payload(model).items()}

    def payload(self, model: nn.Module) -> dict[str, TensorSpec]:
        """Sums of F_j and of F_j theta_j over all sites."""
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        return {
            kind + name: TensorSpec(tuple(parameter.shape), max_norm=MAX_SUM_NORM)
            for kind in (FISHER, PRODUCT)
            for name, parameter in trained
        }

    def client(self, context: ClientContext) -> FedCurvClient:
        """The site's half."""
        return FedCurvClient(self, context)

    def server(self, context: ServerContext) -> FedCurvServer:
        """The server's half."""
        return FedCurvServer(self, context)
