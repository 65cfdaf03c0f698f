"""FedBABU: the head does not move before the rounds are over."""

from __future__ import annotations

import pytest
import torch

from consilia.core.determinism import state_digest
from consilia.methods import Round
from tests.methods.plain import BODY, HEAD, client_of, cross_entropy, equal, network, orders, sgd, site_data


def test_two_rounds_by_hand() -> None:
    data, client, model = site_data(), client_of("fedbabu"), network()

    def loss(indices: torch.Tensor) -> torch.Tensor:
        return cross_entropy(model(data.train.inputs[indices]), data.train.labels[indices])

    state = client.state(client.shared)
    for number in (1, 2):
        state = dict(client.train(Round(number, state)).state)
        sgd(model, BODY, loss, orders(11, number), number)
        equal(state, {name: model.state_dict()[name] for name in BODY})
    # To the bit, under weight decay and momentum.
    first = network().state_dict()
    assert all(torch.equal(client.state()[name], first[name]) for name in HEAD)


def test_the_head_is_the_same_everywhere() -> None:
    sites = [client_of("fedbabu", site_data(seed=seed)) for seed in (3, 4)]
    elsewhere = client_of("fedbabu", site_data(test_only=True))
    body = sites[0].state(sites[0].shared)
    for site in sites:
        site.train(Round(1, body))
        site.personalize(Round(2, body))
    # Also where a site has fine-tuned its head since.
    models = {state_digest(dict(site.state_for("global", body))) for site in (*sites, elsewhere)}
    assert models == {state_digest(network().state_dict())}


@pytest.mark.parametrize("fine_tune", ["all", "head"])
def test_after_the_rounds_the_head_is_fine_tuned(fine_tune: str) -> None:
    data, client, model = site_data(), client_of("fedbabu", fine_tune=fine_tune), network()
    body = {name: tensor + 0.1 for name, tensor in client.state(client.shared).items()}
    client.train(Round(1, body))
    personal = client.personalize(Round(2, body))
    model.load_state_dict(body, strict=False)
    moved = HEAD if fine_tune == "head" else [*BODY, *HEAD]
    sgd(
        model,
        moved,
        lambda i: cross_entropy(model(data.train.inputs[i]), data.train.labels[i]),
        orders(11, 2),
        2,
    )
    equal(dict(personal), model.state_dict())
    # The next round begins with the initial head again.
    assert state_digest(client.train(Round(3, body)).state) == state_digest(
        client_of("fedbabu").train(Round(3, body)).state
    )
