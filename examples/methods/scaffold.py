"""SCAFFOLD: Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020, Alg. 1.

A site corrects every gradient by c - c_k; after K steps from x to y_k with learning rate eta its control variate is

    c_k+ = c_k - c + (x - y_k) / (K eta)        (option II),

and it sends y_k and c_k+ - c_k. The server, with a learning rate of 1, takes x <- mean(y_k) and
c <- c + |S| / N mean(c_k+ - c_k): plain means over the |S| sites of the round, of N in all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from consilia import methods as fl
from consilia.core.errors import ConfigError

CONTROL, DELTA = "control.", "control_delta."


class ScaffoldClient(fl.Client[fl.MethodConfig]):
    """Local training with corrected gradients; keeps c_k, which starts at 0."""

    def __init__(self, method: fl.Method[fl.MethodConfig], context: fl.ClientContext) -> None:
        super().__init__(method, context)
        self.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in self.parameters.items()})

    def train(self, round_: fl.Round) -> fl.Update:
        self.load(round_.state)
        start = self.copy_of_parameters()
        server = {name: round_.payload[CONTROL + name].to(self.device) for name in start}

        def correct() -> None:
            for name, parameter in self.parameters.items():
                if parameter.grad is not None:
                    parameter.grad += server[name] - self.control[name]

        result = self.fit(round_, after_backward=correct)
        end, scale = self.copy_of_parameters(), result.steps * result.rate
        deltas = {name: (start[name] - end[name]) / scale - server[name] for name in start}
        self.control = {name: self.control[name] + deltas[name] for name in start}
        return self.update(result, extras={DELTA + name: deltas[name].cpu() for name in start})

    def state_dict(self) -> dict[str, Any]:
        return {name: tensor.cpu() for name, tensor in self.control.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.control = {name: tensor.to(self.device) for name, tensor in state.items()}


class ScaffoldServer(fl.Server[fl.MethodConfig]):
    """Holds c, which starts at 0."""

    def __init__(self, method: fl.Method[fl.MethodConfig], context: fl.ServerContext) -> None:
        super().__init__(method, context)
        self.control = {name: torch.zeros(spec.shape) for name, spec in method.payload(context.model()).items()}

    def payload(self, round_number: int) -> fl.State:
        return self.control

    def weights(self, updates: Mapping[str, fl.UpdateMetadata]) -> dict[str, float | Mapping[str, float]]:
        return dict.fromkeys(updates, 1.0)

    def step(self, previous: fl.State, mean: fl.Mean, round_number: int) -> fl.State:
        for name, control in self.control.items():
            self.control[name] = control + mean.sites / mean.trainers * mean.extras[DELTA + name.removeprefix(CONTROL)]
        return mean.state

    def state_dict(self) -> dict[str, Any]:
        return dict(self.control)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.control = dict(state)


class Scaffold(fl.Method[fl.MethodConfig]):
    """Stochastic controlled averaging: c travels down beside the model, c_k+ - c_k up."""

    name = "scaffold"

    def extras(self, model: nn.Module) -> dict[str, fl.TensorSpec]:
        return {DELTA + name: fl.TensorSpec.like(p) for name, p in model.named_parameters() if p.requires_grad}

    def payload(self, model: nn.Module) -> dict[str, fl.TensorSpec]:
        return {CONTROL + name: fl.TensorSpec.like(p) for name, p in model.named_parameters() if p.requires_grad}

    def check_training(self, training: fl.TrainingConfig) -> None:
        if training.optimiser != "sgd" or training.momentum:
            raise ConfigError("method scaffold needs training.optimiser: sgd and training.momentum: 0")

    def client(self, context: fl.ClientContext) -> ScaffoldClient:
        return ScaffoldClient(self, context)

    def server(self, context: fl.ServerContext) -> ScaffoldServer:
        return ScaffoldServer(self, context)
