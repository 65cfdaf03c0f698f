"""FedRep: head first, then body; each frozen while the other learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from consilia.core.errors import ConfigError
from consilia.methods import Round
from consilia.methods.fedrep import head_passes
from tests.methods.plain import SIZE, TRAINING, client_of, cross_entropy, equal, orders, sgd, site_data


def normed() -> nn.Module:
    """With running statistics and dropout in the body, and a dropout of its own in the head."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3))
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), head)


BODY, HEAD = ["0.weight", "0.bias", "1.weight", "1.bias"], ["3.0.weight", "3.0.bias", "3.1.weight", "3.1.bias"]
STATISTICS = ["1.running_mean", "1.running_var", "1.num_batches_tracked"]


def test_a_round_by_hand() -> None:
    data, client, model = site_data(), client_of("fedrep", model=normed(), head="3"), normed()

    def loss(indices: torch.Tensor) -> torch.Tensor:
        return cross_entropy(model(data.train.inputs[indices]), data.train.labels[indices])

    update = client.train(Round(1, client.state(client.shared)))
    model.eval()
    model[3].train()
    sgd(model, HEAD, loss, orders(11, purpose="head", epochs=1))
    model.train()
    model[3].eval()
    sgd(model, BODY, loss, orders(11, purpose="body", epochs=1))
    equal(update.state, {name: model.state_dict()[name] for name in (*BODY, *STATISTICS)})
    equal(client.state_for("personal", {}), model.state_dict())


@pytest.mark.parametrize(("part", "moves", "stays"), [("head", "3.", ("0.", "1.")), ("body", "1.", ("3.",))])
def test_not_a_bit_of_the_frozen_part_moves(part: str, moves: str, stays: tuple[str, ...]) -> None:
    """Weight decay, momentum of an earlier fit, running statistics: none reaches it."""
    client = client_of("fedrep", model=normed(), head="3")
    client.fit(Round(1, {}))
    before = client.state()
    client.fit_part(Round(2, {}), part)
    after = client.state()
    for name in before:
        same = torch.equal(before[name], after[name])
        assert same or not name.startswith(stays), name
        assert not same or not name.startswith(moves), name
    assert all(parameter.requires_grad for parameter in client.model.parameters())


def test_a_frozen_body_drops_nothing_out() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    client = client_of("fedrep", model=model, head="2")
    modes = []
    model[1].register_forward_hook(lambda module, *_: modes.append(module.training))
    client.train(Round(1, client.state(client.shared)))
    assert modes == [False] * 3 + [True] * 3


@pytest.mark.parametrize("passes", [2, 3, 7])
def test_both_phases_take_the_rounds_passes(passes: int) -> None:
    client, calls = client_of("fedrep"), []
    client.model.register_forward_hook(lambda *_: calls.append(client.model.get_submodule(client.head).training))
    client.train(Round(1, client.state(client.shared), epochs=passes))
    batches = -(-11 // SIZE)
    assert len(calls) == passes * batches
    assert calls == sorted(calls, reverse=True)  # the head's, then the body's


@pytest.mark.parametrize(
    ("passes", "share", "head"), [(2, 0.9, 1), (2, 0.1, 1), (5, 0.2, 1), (5, 0.8, 4), (5, 0.99, 4), (10, 0.5, 5)]
)
def test_passes_of_the_head(passes: int, share: float, head: int) -> None:
    assert head_passes(passes, share) == head


@pytest.mark.parametrize("key", ["local_epochs", "personalise_epochs"])
def test_one_pass_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=r"there are 1 in a round: set training\.local_epochs"):
        client_of("fedrep", training=TRAINING.model_copy(update={key: 1}))


def test_steps_instead_of_passes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected training\.local_steps: null, got 3"):
        client_of("fedrep", training=TRAINING.model_copy(update={"local_steps": 3}))
