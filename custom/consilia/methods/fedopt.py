"""FedAdam, FedYogi, FedAdagrad: Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2.

Sites train as in FedAvg. What they change on average, Delta = mean(x_i - x), is a step already and no gradient: the
server adds it, scaled element by element:

    m <- beta1 m + (1 - beta1) Delta
    v <- v + Delta^2                                            (FedAdagrad)
    v <- v - (1 - beta2) Delta^2 sign(v - Delta^2)              (FedYogi)
    v <- beta2 v + (1 - beta2) Delta^2                          (FedAdam)
    x <- x + eta m / (sqrt(v) + tau)

m begins at 0, v at tau^2 unless the configuration says otherwise. This is not torch.optim.Adam, which corrects the bias
of m and v and divides by the root of the corrected v plus epsilon. The mean is weighted by training cases. Buffers
(running means and variances of a batch normalisation) are no parameters: they take the plain mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from consilia.core.errors import CheckpointError
from consilia.methods.config import MethodConfig
from consilia.methods.contract import Method, State
from consilia.methods.server import Mean, Server, ServerContext

FIRST, SECOND = "first.", "second."
"""In names of the server's state: m and v of a parameter."""


class FedOptConfig(MethodConfig):
    """What the three have in common. The paper tunes the server's rate for every task and takes tau = 0.001."""

    server_learning_rate: float = Field(0.01, gt=0, description="eta: of the server's step")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    tau: float = Field(1e-3, gt=0, description="added to the root of the second moment")
    initial_second_moment: float | None = Field(
        None, ge=0, description="of every parameter before the first round; null = tau^2, as in the paper"
    )


class DecayingConfig(FedOptConfig):
    """FedAdam and FedYogi; the paper's beta2."""

    beta2: float = Field(0.99, ge=0, lt=1, description="decay of the second moment")


class FedAdagradConfig(FedOptConfig):
    """FedAdagrad; in the paper's experiments without momentum."""

    beta1: float = Field(0.0, ge=0, lt=1, description="decay of the first moment; 0 as in the paper's experiments")


O = TypeVar("O", bound=FedOptConfig)  # noqa: E741


class FedOptServer(Server[O]):
    """Holds m and v of every parameter, in float32 at least, whatever type is exchanged."""

    def __init__(self, method: Method[O], context: ServerContext) -> None:
        super().__init__(method, context)
        self.first: dict[str, Tensor] = {}
        self.second: dict[str, Tensor] = {}

    def second_moment(self, before: Tensor, squared: Tensor) -> Tensor:
        """v after a round, from v before it and Delta^2."""
        raise NotImplementedError

    @cached_property
    def adapted(self) -> set[str]:
        """Names of parameters, of tied ones all: the last name that a site loads decides."""
        return {name for name, _ in self.context.model().named_parameters(remove_duplicate=False)}

    def step(self, previous: State, mean: Mean, round_number: int) -> State:
        """x + eta m / (sqrt(v) + tau) for parameters, the mean for buffers."""
        return {
            name: self._moved(name, previous[name], value) if name in self.adapted else value
            for name, value in mean.state.items()
        }

    def _moved(self, name: str, old: Tensor, mean: Tensor) -> Tensor:
        config, wide = self.config, torch.promote_types(old.dtype, torch.float32)
        delta = mean.to(wide) - old.to(wide)
        start = config.tau**2 if config.initial_second_moment is None else config.initial_second_moment
        first = self.first.get(name, torch.zeros_like(delta))
        second = self.second.get(name, torch.full_like(delta, start))
        self.first[name] = config.beta1 * first + (1 - config.beta1) * delta
        self.second[name] = self.second_moment(second, delta.square())
        step = config.server_learning_rate * self.first[name] / (self.second[name].sqrt() + config.tau)
        return (old.to(wide) + step).to(old.dtype)

    def state_dict(self) -> dict[str, Any]:
        """m and v by parameter."""
        first = {FIRST + name: tensor for name, tensor in self.first.items()}
        return first | {SECOND + name: tensor for name, tensor in self.second.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """m and v by parameter; raises :class:`CheckpointError` where one is without the other."""
        self.first = {name.removeprefix(FIRST): state[name] for name in state if name.startswith(FIRST)}
        self.second = {name.removeprefix(SECOND): state[name] for name in state if name.startswith(SECOND)}
        if self.first.keys() != self.second.keys() or not self.first.keys() <= self.adapted:
            raise CheckpointError(f"the server's moments are not those of this model under {self.config.method}")


class FedAdamServer(FedOptServer[DecayingConfig]):
    """v as a decaying mean of squares."""

    def second_moment(self, before: Tensor, squared: Tensor) -> Tensor:
        """beta2 v + (1 - beta2) Delta^2."""
        return self.config.beta2 * before + (1 - self.config.beta2) * squared


class FedYogiServer(FedOptServer[DecayingConfig]):
    """v moves towards Delta^2 by what Delta^2 is, not by how far away it is."""

    def second_moment(self, before: Tensor, squared: Tensor) -> Tensor:
        """v - (1 - beta2) Delta^2 sign(v - Delta^2)."""
        return before - (1 - self.config.beta2) * squared * (before - squared).sign()


class FedAdagradServer(FedOptServer[FedAdagradConfig]):
    """v as a sum of squares."""

    def second_moment(self, before: Tensor, squared: Tensor) -> Tensor:
        """The sum v + Delta^2."""
        return before + squared


class FedOpt(Method[O]):
    """What the three declare alike."""

    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation", "survival")
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {"server_learning_rate": (0.001, 0.01, 0.1, 1.0)}


class FedAdam(FedOpt[DecayingConfig]):
    """FedAvg whose server takes the steps of Adam without bias correction (Reddi et al. 2021)."""

    name = "fedadam"
    Config = DecayingConfig

    def server(self, context: ServerContext) -> FedAdamServer:
        """The server's half."""
        return FedAdamServer(self, context)


class FedYogi(FedOpt[DecayingConfig]):
    """FedAvg whose server takes the steps of Yogi (Reddi et al. 2021)."""

    name = "fedyogi"
    Config = DecayingConfig

    def server(self, context: ServerContext) -> FedYogiServer:
        """The server's half."""
        return FedYogiServer(self, context)


class FedAdagrad(FedOpt[FedAdagradConfig]):
    """FedAvg whose server takes the steps of Adagrad (Reddi et al. 2021)."""

    name = "fedadagrad"
    Config = FedAdagradConfig

    def server(self, context: ServerContext) -> FedAdagradServer:
        """The server's half."""
        return FedAdagradServer(self, context)
