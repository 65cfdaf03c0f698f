"""FedPer: the head is trained with the body, and stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from consilia.core.errors import ConfigError
from consilia.methods import CannotEvaluate, Round
from consilia.methods.contract import transmitted
from consilia.methods.registry import make_method, method_config
from consilia.models.linear import PooledLinear
from tests.methods.plain import BODY, HEAD, NAMES, client_of, cross_entropy, equal, network, orders, sgd, site_data


def test_two_rounds_by_hand() -> None:
    data, client, model = site_data(), client_of("fedper"), network()

    def loss(indices: torch.Tensor) -> torch.Tensor:
        return cross_entropy(model(data.train.inputs[indices]), data.train.labels[indices])

    update = client.train(Round(1, client.state(client.shared)))
    sgd(model, NAMES, loss, orders(11))
    equal(update.state, {name: model.state_dict()[name] for name in BODY})
    equal(client.state_dict(), {name: model.state_dict()[name] for name in HEAD})
    # The next round brings another body, which meets the head as the first one has left it.
    body = {name: tensor + 0.1 for name, tensor in update.state.items()}
    update = client.train(Round(2, body))
    model.load_state_dict(body, strict=False)
    sgd(model, NAMES, loss, orders(11, 2), 2)
    equal(update.state, {name: model.state_dict()[name] for name in BODY})
    equal(client.state_for("personal", body), model.state_dict())


@pytest.mark.parametrize("method", ["fedper", "fedrep", "fedbabu"])
def test_the_head_is_not_exchanged(method: str) -> None:
    client = client_of(method)
    assert client.shared == BODY
    assert client.private == HEAD
    assert sorted(client.train(Round(1, client.state(client.shared))).state) == sorted(BODY)


@pytest.mark.parametrize("method", ["fedper", "fedrep"])
def test_a_site_without_a_head_of_its_own_cannot_judge(method: str) -> None:
    client = client_of(method, site_data(test_only=True))
    with pytest.raises(CannotEvaluate, match=f"with {method} every site has a head of its own"):
        client.state_for("global", {})


def plain_network() -> nn.Module:
    """One that declares no head."""
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


@pytest.mark.parametrize("method", ["fedper", "fedrep", "fedbabu", "moon"])
def test_a_model_without_a_head_is_refused_before_anything_is_trained(method: str) -> None:
    def manifest(model: nn.Module, **own: Any) -> list[str]:
        return list(transmitted(make_method(method_config({"method": method, **own})), model))

    with pytest.raises(
        ConfigError, match=r"Sequential does not say which layer is its head: set method\.head .*\('2', "
    ):
        manifest(plain_network())
    with pytest.raises(ConfigError, match=r"no layer of the name method\.head = 'fc'"):
        manifest(plain_network(), head="fc")
    with pytest.raises(ConfigError, match="head '1' of Sequential has no parameter"):
        manifest(plain_network(), head="1")
    assert len(manifest(plain_network(), head="2")) == (4 if method == "moon" else 2)
    if method != "moon":
        with pytest.raises(ConfigError, match="all that is trained of PooledLinear is its head 'layer'"):
            manifest(PooledLinear(5, 3))
