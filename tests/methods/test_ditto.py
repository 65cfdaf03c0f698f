"""Ditto against loops written out, and its global model against FedAvg's to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from consilia.core.determinism import state_digest
from consilia.methods import Round
from tests.federation.support import Federation
from tests.methods.linear import DECAY, RATE, SGD, State, close, data, gradient, linear
from tests.methods.runs import PLAIN, list_network, run_of
from tests.methods.support import client_of

LAM = 0.5


def own_steps(v: State, anchor: State, own: object, number: int) -> State:
    """Two steps of the personal model: the whole of the cases is one batch."""
    for _ in range(2):
        slope, rate = gradient(v, own), RATE * DECAY ** (number - 1)  # type: ignore[arg-type]
        v = {name: v[name] - rate * (slope[name] + LAM * (v[name] - anchor[name])) for name in v}
    return v


def test_two_rounds_by_hand() -> None:
    own = data()
    client = client_of({"method": "ditto", "lam": LAM, "personal_epochs": 2}, linear(), own, SGD)
    start = client.state()
    update = client.train(Round(1, start))
    slope = gradient(start, own.train)
    close(dict(update.state), {name: start[name] - RATE * slope[name] for name in start})
    # The anchor is the received model, not w_k, which the site has trained before.
    v = own_steps(dict(start), start, own.train, 1)
    close(dict(client.state_for("personal", start)), v)
    # What is evaluated as the global model is what was received.
    assert client.state_for("global", start) is start
    # Personalising changes nothing, and the next round goes on from v with the new global model as the anchor.
    assert state_digest(client.personalize(Round(2, start))) == state_digest(client.state_dict())
    other = {name: tensor + 1 for name, tensor in start.items()}
    second = client.train(Round(2, other))
    close(client.state_dict(), own_steps(v, other, own.train, 2))
    slope = gradient(other, own.train)
    close(dict(second.state), {name: other[name] - RATE * DECAY * slope[name] for name in other})


def test_without_the_pull_v_is_trained_as_if_alone() -> None:
    own = data()
    found = []
    for shift in (0.0, 5.0):
        client = client_of({"method": "ditto", "lam": 0}, linear(), own, SGD)
        start = client.state()
        client.train(Round(1, start))
        client.train(Round(2, {name: tensor + shift for name, tensor in start.items()}))
        found.append(state_digest(client.state_dict()))
    assert found[0] == found[1]


def test_a_site_that_never_took_part_gets_a_model_from_the_global_one() -> None:
    own = data()
    client = client_of({"method": "ditto", "lam": LAM, "personal_epochs": 2}, linear(), own, SGD)
    start = client.state()
    assert client.state_dict() == {}
    close(dict(client.personalize(Round(1, start))), own_steps(dict(start), start, own.train, 1))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_global_model_is_fedavgs_to_the_byte_and_v_is_not_sent(
    wisconsin: dict[str, Path], tmp_path: Path, momentum: float
) -> None:
    """A network with running statistics, half of the sites in a round: the global branch does not feel v."""
    list_network(wisconsin)
    training = {**PLAIN, "momentum": momentum, "weight_decay": 1e-3}
    found = {}
    for method in ("fedavg", "ditto"):
        federation = Federation(run_of(method, training=training), wisconsin, tmp_path / method)
        record = federation.rounds()
        found[method] = [item.sha256 for item in record.rounds]
    assert found["ditto"] == found["fedavg"]
    assert len(set(found["ditto"])) == 4
    state = federation.coordinator.state
    for site in federation.sites.values():
        for path in site.folder.glob("client-*.safetensors"):
            v = load_file(path)
            assert set(v) == set(state)
            assert not any(torch.equal(v[name], state[name]) for name in v if name.endswith("weight"))
