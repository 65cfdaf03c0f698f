"""FedProx against loops written out: half of mu, the model received this round as the anchor, buffers out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from consilia.core.determinism import derive_seed, state_digest
from consilia.methods import Round, TrainingConfig
from tests.methods.linear import DECAY, RATE, SGD, batches, close, data, gradient, linear
from tests.methods.support import client_of

MU = 0.6
METHOD = {"method": "fedprox", "mu": MU}


def test_two_rounds_by_hand_each_anchored_where_it_began() -> None:
    """The gradient of (mu / 2) ||y - x||^2 is mu (y - x): of the second round's x, not of the first's."""
    own = data(8)
    client = client_of(METHOD, linear(), own, SGD)
    x = client.state()
    for number in (1, 2):
        y, rate = dict(x), RATE * DECAY ** (number - 1)
        for batch in batches(own.train, number):
            slope = gradient(y, batch)
            y = {name: y[name] - rate * (slope[name] + MU * (y[name] - x[name])) for name in y}
        close(dict(client.train(Round(number, x)).state), y)
        x = {name: tensor + 1 for name, tensor in y.items()}


def test_running_statistics_and_frozen_parts_are_not_pulled() -> None:
    """Against torch's own gradient of the term written out over the parameters alone."""
    own, training = data(8), SGD.model_copy(update={"local_epochs": 3})

    def network() -> nn.Sequential:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
        model[0].weight.requires_grad_(False)
        # Far from what the cases have: a pull towards these would show.
        model[1].running_mean += 100
        return model

    update = client_of(METHOD, network(), own, training).train(Round(1, {}))
    model = network()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    anchors = [parameter.detach().clone() for parameter in trained]
    order = torch.Generator().manual_seed(derive_seed(1, "batches", "a", 1))
    for _ in range(3):
        for index in torch.randperm(8, generator=order).split(4):
            drift = sum(((p - a) ** 2).sum() for p, a in zip(trained, anchors, strict=True))
            loss = nn.functional.cross_entropy(model(own.train.inputs[index]), own.train.labels[index])
            gradients = torch.autograd.grad(loss + MU / 2 * drift, trained)
            with torch.no_grad():
                for parameter, slope in zip(trained, gradients, strict=True):
                    parameter -= RATE * slope
    expected = {name: tensor for name, tensor in model.state_dict().items() if name in update.state}
    assert {"1.running_mean", "1.running_var"} < set(expected)
    close(dict(update.state), expected)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_a_pull_it_is_fedavg_to_the_byte(momentum: float) -> None:
    training = TrainingConfig(**{**SGD.model_dump(), "momentum": momentum, "weight_decay": 1e-3})
    start = {name: tensor.clone() for name, tensor in linear().state_dict().items()}
    found = [
        state_digest(client_of(method, linear(), data(8), training).train(Round(1, start)).state)
        for method in ({"method": "fedprox", "mu": 0}, "fedavg")
    ]
    assert found[0] == found[1]
