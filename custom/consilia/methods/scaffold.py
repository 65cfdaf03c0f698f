"""SCAFFOLD: Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020, Alg. 1.

A site corrects every gradient g by its own control variate c_k and the server's c, and steps along g - c_k + c. After K
steps from x to y_k with the round's learning rate eta its control variate becomes

    c_k+ = c_k - c + (x - y_k) / (K eta)        (option II),

and it sends y_k and c_k+ - c_k. The server, with a learning rate of 1, takes x <- mean(y_k) and
c <- c + |S| / N mean(c_k+ - c_k): plain means over the |S| sites of the round, of N that train in the run. Every c
starts at 0, and c_k stays as it is while its site is not sampled.

(x - y_k) / (K eta) is the mean of the corrected gradients only if every step is eta times one of them: so plain SGD
alone is taken, without momentum, weight decay or clipping. Control variates are of trained parameters; buffers have
none, and take the mean. A site's personal model is the final global model trained once more as in a round,
corrected too.

With ``weighting: samples`` both means are weighted by training cases, as FedAvg's and as in FLamby.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from consilia.core.errors import ConfigError
from consilia.methods.client import Client, ClientContext, Round
from consilia.methods.config import MethodConfig, TrainingConfig
from consilia.methods.contract import Method, State, TensorSpec, Update
from consilia.methods.server import Mean, Server, ServerContext, UpdateMetadata

CONTROL, DELTA = "control.", "control_delta."


class ScaffoldConfig(MethodConfig):
    """SCAFFOLD's parameters."""

    weighting: Literal["equal", "samples"] = Field(
        "equal", description="of sites in the means of models and control variates: equal as in the paper, or by cases"
    )


class ScaffoldClient(Client[ScaffoldConfig]):
    """Local training with corrected gradients; keeps c_k."""

    def __init__(self, method: Method[ScaffoldConfig], context: ClientContext) -> None:
        super().__init__(method, context)
        self.control = {name: torch.zeros_like(tensor) for name, tensor in self.parameters.items()}

    def train(self, round_: Round) -> Update:
        """Train with corrected gradients, and renew c_k by option II."""
        self.load(round_.state)
        start = self.copy_of_parameters()
        server = {name: round_.payload[CONTROL + name].to(self.device) for name in start}

        def correct() -> None:
            for name, parameter in self.parameters.items():
                if parameter.grad is not None:
                    parameter.grad += server[name] - self.control[name]

        result = self.fit(round_, after_backward=correct)
        end, scale = self.copy_of_parameters(), result.steps * result.rate
        if result.steps:
            deltas = {name: (start[name] - end[name]) / scale - server[name] for name in start}
        else:  # batches of a survival without an event: nothing was learnt of this site's gradient
            deltas = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
        self.control = {name: self.control[name] + deltas[name] for name in start}
        return self.update(result, extras={DELTA + name: deltas[name].cpu() for name in start})

    def state_dict(self) -> dict[str, Any]:
        """c_k by parameter."""
        return {name: tensor.cpu() for name, tensor in self.control.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """c_k by parameter."""
        self.control = {name: tensor.to(self.device) for name, tensor in state.items()}


class ScaffoldServer(Server[ScaffoldConfig]):
    """Holds c."""

    def __init__(self, method: Method[ScaffoldConfig], context: ServerContext) -> None:
        super().__init__(method, context)
        self.control = {name: torch.zeros(spec.shape) for name, spec in method.payload(context.model()).items()}

    def payload(self, round_number: int) -> State:
        """The server's c by parameter."""
        return self.control

    def weights(self, updates: Mapping[str, UpdateMetadata]) -> dict[str, float | Mapping[str, float]]:
        """Equal ones, or the sites' training cases."""
        return dict(self.extras_weights(updates))

    def extras_weights(self, updates: Mapping[str, UpdateMetadata]) -> Mapping[str, float]:
        """The same."""
        by_cases = self.config.weighting == "samples"
        return {site: float(update.cases) if by_cases else 1.0 for site, update in updates.items()}

    def step(self, previous: State, mean: Mean, round_number: int) -> State:
        """The mean of the models; c moves by the sum of the sites' changes over all N sites."""
        for name, control in self.control.items():
            self.control[name] = control + mean.sites / mean.trainers * mean.extras[DELTA + name.removeprefix(CONTROL)]
        return mean.state

    def state_dict(self) -> dict[str, Any]:
        """The server's c by parameter."""
        return dict(self.control)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The server's c by parameter."""
        self.control = dict(state)


class Scaffold(Method[ScaffoldConfig]):
    """Gradients corrected by control variates: c travels down beside the model, c_k's change up (Karimireddy 2020)."""

    name = "scaffold"
    Config = ScaffoldConfig
    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation", "survival")
    robust: ClassVar[bool] = False  # c is the mean of all c_k only if it moves by the mean of their changes

    def extras(self, model: nn.Module) -> dict[str, TensorSpec]:
        """c_k+ - c_k."""
        return {DELTA + name: TensorSpec.like(parameter) for name, parameter in _trained(model)}

    def payload(self, model: nn.Module) -> dict[str, TensorSpec]:
        """The server's c."""
        return {CONTROL + name: TensorSpec.like(parameter) for name, parameter in _trained(model)}

    def check_training(self, training: TrainingConfig) -> None:
        """Refuse every optimisation whose steps are not eta times the corrected gradient."""
        wanted = {"optimiser": "sgd", "momentum": 0.0, "weight_decay": 0.0, "gradient_clip": None}
        wrong = [key for key, value in wanted.items() if getattr(training, key) != value]
        if wrong:
            found = ", ".join(f"training.{key} {getattr(training, key)}" for key in wrong)
            settings = " ".join(f"--set training.{key}={_shown(wanted[key])}" for key in wrong)
            raise ConfigError(
                "method scaffold: its control variates are mean gradients only with plain SGD, without momentum, "
                f"weight decay and clipping, got {found}: set {settings}"
            )

    def client(self, context: ClientContext) -> ScaffoldClient:
        """The site's half."""
        return ScaffoldClient(self, context)

    def server(self, context: ServerContext) -> ScaffoldServer:
        """The server's half."""
        return ScaffoldServer(self, context)


def _trained(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _shown(value: object) -> str:
    return "null" if value is None else str(value).removesuffix(".0")
