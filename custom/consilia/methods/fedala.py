"""FedALA: Zhang et al., "FedALA: Adaptive Local Aggregation for Personalized Federated Learning", AAAI 2023.

Before its local training a site mixes its own last model theta_k with the global model theta it has received, element
by element (Eq. 4):

    theta_hat = theta_k + (theta - theta_k) * W_k        in the top p layers,    theta_hat = theta        below them.

W_k starts at 1, stays at the site, and is learnt on a random share s of the site's training cases with everything else
frozen, by gradient descent and clipping to [0, 1] (Eq. 5):

    W_k <- clip(W_k - eta (theta - theta_k) * grad_theta_hat L, 0, 1).

One pass over these cases in each round; at the first use, where the paper goes on until convergence, ``first_passes``.
These passes come on top of the round's own, as in the paper. In its first round a site has no model of its own, and
starts from the global one. Layers are those with parameters of their own, in the model's order; running statistics are
the global model's. W is learnt in evaluation mode, so that a batch of one case will do and no statistics move. The
server averages as FedAvg does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from consilia.core.determinism import generator
from consilia.core.errors import ConfigError, TrainingStopped
from consilia.methods.client import Client, ClientContext, Round
from consilia.methods.config import MethodConfig
from consilia.methods.contract import Method, Update
from consilia.methods.fit import Batch, shuffled

OLD, WEIGHT = "old.", "weight."
"""How the names of a client state's tensors begin."""


class FedALAConfig(MethodConfig):
    """FedALA's parameters; ``eta`` = 0 leaves W at 1, which is FedAvg."""

    eta: float = Field(1.0, ge=0, description="learning rate of the weights W")
    layers: int = Field(1, ge=1, description="p: how many of the top layers are mixed, the others are the global ones")
    share: float = Field(0.8, gt=0, le=1, description="s: of the training cases, on which W is learnt in a round")
    first_passes: int = Field(10, ge=1, description="passes over them when W is first learnt; later one")


class FedALAClient(Client[FedALAConfig]):
    """Local training from a mixture of the site's last model and the global one."""

    def __init__(self, method: Method[FedALAConfig], context: ClientContext) -> None:
        super().__init__(method, context)
        self.mixed = top_parameters(self.model, self.config.layers)
        self.old: dict[str, Tensor] = {}
        """The top layers of the site's model at the end of its last round; empty before its first."""
        self.weights: dict[str, Tensor] = {}
        """W; empty, which stands for 1, before it is first learnt."""

    def train(self, round_: Round) -> Update:
        """Mix, then train as it is."""
        self.load(round_.state)
        if self.old and self.config.eta > 0:
            self._mix(round_)
        result = self.fit(round_)
        self.old = self.state(self.mixed)
        return self.update(result)

    def _mix(self, round_: Round) -> None:
        """Learn W, and put theta_hat into the model, which holds theta."""
        parameters = [self.parameters[name] for name in self.mixed]
        old = [self.old[name].to(self.device) for name in self.mixed]
        ways = [parameter.detach() - start for parameter, start in zip(parameters, old, strict=True)]
        passes = 1 if self.weights else self.config.first_passes
        found = self.weights or {name: torch.ones_like(self.old[name]) for name in self.mixed}
        weights = [found[name].to(self.device, copy=True) for name in self.mixed]
        order = generator(self.seed, "mixing", self.data.site, round_.number)
        self.samples = generator(self.seed, "mixing-draw", self.data.site, round_.number)
        cases = len(self.data.train)
        some = torch.randperm(cases, generator=order)[: math.ceil(self.config.share * cases)]
        _place(parameters, old, ways, weights)
        for _ in range(passes):
            pieces = shuffled(len(some), self.training.batch_size, order, self.training.last_batch)
            batches = self.batches_of(some[piece] for piece in pieces)
            self.model.eval()
            for batch in batches:
                if self.should_stop():
                    raise TrainingStopped(f"training at site {self.data.site!r} was told to stop")
                for weight, way, slope in zip(weights, ways, self._slopes(batch, parameters), strict=True):
                    weight.sub_(self.config.eta * way * slope).clamp_(0, 1)
                _place(parameters, old, ways, weights)
        self.weights = {name: weight.cpu() for name, weight in zip(self.mixed, weights, strict=True)}

    def _slopes(self, batch: Batch, parameters: list[nn.Parameter]) -> tuple[Tensor, ...]:
        """The gradient of the loss by theta_hat; 0 for a parameter that has no part in it."""
        return torch.autograd.grad(self.loss(batch), parameters, materialize_grads=True)

    def state_dict(self) -> dict[str, Any]:
        """The site's last top layers, and W."""
        old = {OLD + name: tensor for name, tensor in self.old.items()}
        return {**old, **{WEIGHT + name: tensor for name, tensor in self.weights.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The site's last top layers, and W."""
        self.old = {name: state[OLD + name] for name in self.mixed if OLD + name in state}
        self.weights = {name: state[WEIGHT + name] for name in self.mixed if WEIGHT + name in state}


@torch.no_grad()
def _place(parameters: list[nn.Parameter], old: list[Tensor], ways: list[Tensor], weights: list[Tensor]) -> None:
    """theta_hat = theta_k + (theta - theta_k) * W."""
    for parameter, start, way, weight in zip(parameters, old, ways, weights, strict=True):
        parameter.copy_(start + way * weight)


def top_parameters(model: nn.Module, layers: int) -> list[str]:
    """Names of the trained parameters of the last so many layers that have any, in the model's order.

    Raises:
        ConfigError: the model has fewer such layers.
    """
    found = []
    for prefix, module in model.named_modules():
        own = [name for name, parameter in module.named_parameters(prefix, recurse=False) if parameter.requires_grad]
        found += [own] if own else []
    if layers > len(found):
        raise ConfigError(
            f"method fedala mixes the top {layers} layers, {type(model).__name__} has {len(found)} that are trained: "
            f"set method.layers to {len(found)} at most"
        )
    return [name for own in found[-layers:] for name in own]


class FedALA(Method[FedALAConfig]):
    """FedAvg; a site starts from a learnt mixture of its last model and the global one (Zhang et al. 2023)."""

    name = "fedala"
    Config = FedALAConfig
    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation", "survival")
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {"eta": (0.1, 0.3, 1.0, 3.0)}

    def exchanged(self, model: nn.Module) -> list[str]:
        """All that is trained; a model with fewer layers than are to be mixed is refused."""
        top_parameters(model, self.config.layers)
        return super().exchanged(model)

    def same_as(self, num_classes: int) -> tuple[str, str] | None:
        """FedAvg where W is not learnt."""
        return ("fedavg", "eta = 0 leaves the weights at 1") if self.config.eta == 0 else None

    def client(self, context: ClientContext) -> FedALAClient:
        """The site's half."""
        return FedALAClient(self, context)
