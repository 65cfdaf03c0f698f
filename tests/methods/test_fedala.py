"""FedALA: a learnt mixture of the site's last model and the global one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from consilia.core.determinism import derive_seed, state_digest
from consilia.core.errors import ConfigError
from consilia.methods import Round
from consilia.methods.contract import transmitted
from consilia.methods.registry import make_method, method_config
from tests.methods.plain import (
    BODY,
    HEAD,
    NAMES,
    SIZE,
    client_of,
    cross_entropy,
    equal,
    network,
    orders,
    sgd,
    site_data,
)

ETA, SHARE = 3.0, 0.5


def mix_by_hand(
    model: nn.Module, names: list[str], old: dict[str, Tensor], weights: dict[str, Tensor], passes: int, number: int
) -> None:
    """W by single steps; the model holds the global weights before, and the mixture after."""
    data, received = site_data(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    order = torch.Generator().manual_seed(derive_seed(1, "mixing", "a", number))
    some = torch.randperm(11, generator=order)[:6]  # ceil(0.5 x 11)

    def place() -> None:
        with torch.no_grad():
            for name in names:
                parameters[name].copy_(old[name] + (received[name] - old[name]) * weights[name])

    place()
    for _ in range(passes):
        for indices in torch.randperm(6, generator=order).split(SIZE):
            cases = some[indices]
            loss = cross_entropy(model(data.train.inputs[cases]), data.train.labels[cases])
            slopes = torch.autograd.grad(loss, [parameters[name] for name in names])
            for name, slope in zip(names, slopes, strict=True):
                step = weights[name] - ETA * (received[name] - old[name]) * slope
                weights[name] = step.minimum(torch.ones(())).maximum(torch.zeros(()))
            place()


@pytest.mark.parametrize(("layers", "names"), [(1, HEAD), (2, NAMES)])
def test_three_rounds_by_hand(layers: int, names: list[str]) -> None:
    client, model, data = (
        client_of("fedala", eta=ETA, share=SHARE, layers=layers, first_passes=3),
        network(),
        site_data(),
    )
    received = network().state_dict()
    old: dict[str, Tensor] = {}
    weights = {name: torch.ones_like(received[name]) for name in names}
    for number in (1, 2, 3):
        update = client.train(Round(number, received))
        model.load_state_dict(received)
        if old:
            mix_by_hand(model, names, old, weights, passes=3 if number == 2 else 1, number=number)
        sgd(
            model,
            NAMES,
            lambda i: cross_entropy(model(data.train.inputs[i]), data.train.labels[i]),
            orders(11, number),
            number,
        )
        equal(dict(update.state), model.state_dict())
        old = {name: model.state_dict()[name].clone() for name in names}
        state = {f"old.{name}": tensor for name, tensor in old.items()}
        if number > 1:
            # W persists, and has moved from 1 but not out of [0, 1].
            state |= {f"weight.{name}": tensor for name, tensor in weights.items()}
            every = torch.cat([tensor.flatten() for tensor in weights.values()])
            assert 0 <= float(every.min()) < float(every.max()) <= 1
            assert float(every.mean()) < 1
        equal(client.state_dict(), state)
        received = {name: tensor * 0.5 + 0.3 for name, tensor in model.state_dict().items()}


def test_a_large_step_is_clipped() -> None:
    client = client_of("fedala", eta=1e6)
    received = client.state()
    client.train(Round(1, received))
    client.train(Round(2, {name: tensor + 1 for name, tensor in received.items()}))
    every = torch.cat([client.weights[name].flatten() for name in HEAD])
    assert set(every.tolist()) <= {0.0, 1.0}
    assert len(set(every.tolist())) == 2


def test_lower_layers_are_the_global_ones() -> None:
    client = client_of("fedala", eta=ETA)
    client.train(Round(1, client.state()))
    received = {name: tensor + 0.5 for name, tensor in network().state_dict().items()}
    client.load(received)
    client._mix(Round(2, received))
    mixture = client.state()
    assert all(torch.equal(mixture[name], received[name]) for name in BODY)
    assert not any(torch.equal(mixture[name], received[name]) for name in HEAD)


def test_the_first_round_and_no_learning_are_fedavg_to_the_byte() -> None:
    plain, first, still = client_of("fedavg"), client_of("fedala", eta=ETA), client_of("fedala", eta=0)
    state = plain.state()
    expected = dict(plain.train(Round(1, state)).state)
    assert state_digest(first.train(Round(1, state)).state) == state_digest(expected)
    assert state_digest(still.train(Round(1, state)).state) == state_digest(expected)
    other = {name: tensor + 0.1 for name, tensor in state.items()}
    expected = dict(plain.train(Round(2, other)).state)
    assert state_digest(still.train(Round(2, other)).state) == state_digest(expected)
    assert state_digest(first.train(Round(2, other)).state) != state_digest(expected)
    assert still.method.same_as(2) == ("fedavg", "eta = 0 leaves the weights at 1")
    assert first.method.same_as(2) is None


def test_statistics_are_the_global_ones_and_do_not_move_while_it_mixes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3), nn.BatchNorm1d(3))
    client = client_of("fedala", model=model, layers=2)
    received = client.state()
    client.train(Round(1, received))
    client.load(received)
    client._mix(Round(2, received))
    mixture = client.state()
    assert all(torch.equal(mixture[name], received[name]) for name in received if "running" in name or "num" in name)
    assert client.mixed == ["2.weight", "2.bias", "3.weight", "3.bias"]


def test_more_layers_than_there_are_are_refused() -> None:
    method = make_method(method_config({"method": "fedala", "layers": 3}))
    with pytest.raises(ConfigError, match=r"mixes the top 3 layers, MLP has 2 .* set method\.layers to 2"):
        transmitted(method, network())
