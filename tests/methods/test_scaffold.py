"""SCAFFOLD against loops written out: both variates old, real steps, this round's rate, sites not sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from consilia.core.errors import ConfigError
from consilia.methods import Mean, Round, TrainingConfig
from consilia.methods.registry import make_method, method_config
from consilia.methods.server import UpdateMetadata
from tests.federation.support import Federation, small
from tests.methods.linear import DECAY, RATE, SGD, State, batches, close, data, gradient, linear
from tests.methods.runs import PLAIN, list_network, run_of
from tests.methods.support import client_of, server_of


def payload(c: State) -> State:
    return {f"control.{name}": tensor for name, tensor in c.items()}


def local(start: State, own: Any, c: State, c_k: State, number: int, epochs: int = 1) -> tuple[State, State]:
    """(y_k, c_k+) of a round, from the paper's lines 10 and 12."""
    rate, y, steps = RATE * DECAY ** (number - 1), dict(start), 0
    for batch in batches(own, number, epochs=epochs):
        slope = gradient(y, batch)
        y = {name: y[name] - rate * (slope[name] - c_k[name] + c[name]) for name in y}
        steps += 1
    return y, {name: c_k[name] - c[name] + (start[name] - y[name]) / (steps * rate) for name in y}


def test_two_rounds_by_hand() -> None:
    """7 cases in batches of 4 over two passes are 4 steps; the second round's rate has decayed."""
    own, training = data(7), SGD.model_copy(update={"local_epochs": 2})
    client = client_of("scaffold", linear(), own, training)
    x = client.state()
    c = {"weight": torch.full((2, 2), 0.1), "bias": torch.full((2,), -0.2)}
    c_k = {name: torch.zeros_like(tensor) for name, tensor in x.items()}
    for number in (1, 2):
        y, renewed = local(x, own.train, c, c_k, number, epochs=2)
        update = client.train(Round(number, x, payload(c)))
        close(dict(update.state), y)
        close(
            {name.removeprefix("control_delta."): tensor for name, tensor in update.extras.items()},
            {name: renewed[name] - c_k[name] for name in y},
        )
        close(client.state_dict(), renewed)
        # The next round begins elsewhere, with another c.
        x, c_k = {name: tensor + 0.3 for name, tensor in y.items()}, renewed
        c = {name: tensor - 0.05 for name, tensor in c.items()}


def test_the_servers_variate_moves_by_the_sum_over_all_sites() -> None:
    """3 of 8 sites have sent changes: c moves by a eighth of their sum, not by their mean."""
    server = server_of("scaffold", linear())
    sent = {"a": UpdateMetadata(cases=30), "b": UpdateMetadata(cases=10)}
    assert server.weights(sent) == server.extras_weights(sent) == {"a": 1.0, "b": 1.0}
    by_cases = server_of({"method": "scaffold", "weighting": "samples"}, linear())
    assert by_cases.weights(sent) == by_cases.extras_weights(sent) == {"a": 30.0, "b": 10.0}
    start = {name: tensor.clone() for name, tensor in linear().state_dict().items()}
    changes = [{name: torch.full_like(tensor, value) for name, tensor in start.items()} for value in (1.0, 2.0, 6.0)]
    extras = {f"control_delta.{name}": sum(change[name] for change in changes) / 3 for name in start}
    mean = Mean(start, extras, sites=3, trainers=8)
    assert server.step(start, mean, 1) is start
    server.step(start, mean, 2)
    for tensor in server.payload(3).values():
        assert torch.equal(tensor, torch.full_like(tensor, 2 * 9 / 8))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"momentum": 0.9}, r"got training\.momentum 0\.9: set --set training\.momentum=0$"),
        ({"weight_decay": 1e-5}, r"got training\.weight_decay 1e-05: set --set training\.weight_decay=0$"),
        ({"gradient_clip": 1.0}, r"got training\.gradient_clip 1\.0: set --set training\.gradient_clip=null$"),
        ({"optimiser": "adamw"}, r"got training\.optimiser adamw: set --set training\.optimiser=sgd$"),
        ({"momentum": 0.5, "gradient_clip": 2.0}, r"momentum 0\.5, training\.gradient_clip 2\.0: set"),
    ],
)
def test_what_is_not_plain_descent_is_refused(training: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small("scaffold", training={**PLAIN, **training})
    with pytest.raises(ConfigError, match=message):
        client_of("scaffold", linear(), data(), TrainingConfig(**{**PLAIN, **training}))
    assert small("scaffold", training=PLAIN).training.momentum == 0


def test_buffers_and_frozen_parts_have_no_variate() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    method = make_method(method_config("scaffold"))
    names = ["1.weight", "1.bias", "2.weight", "2.bias"]
    assert sorted(method.extras(model)) == [f"control_delta.{name}" for name in sorted(names)]
    assert sorted(method.payload(model)) == [f"control.{name}" for name in sorted(names)]


def test_a_run_keeps_variates_of_sites_not_sampled_and_sends_twice_the_bytes(
    wisconsin: dict[str, Path], tmp_path: Path
) -> None:
    """c stays the mean of all sites' c_k, of which half move in a round: only so does the server divide by all N."""
    federation = Federation(run_of("scaffold", rounds=3, evaluate_every=0), list_network(wisconsin), tmp_path / "run")
    record = federation.rounds()
    assert all(len(item.participants) == 2 for item in record.rounds)
    total: dict[str, Any] = {}
    for name, site in federation.sites.items():
        last, _ = federation.coordinator.participants.accepted.of(name)
        asked = [item.round for item in record.rounds if name in item.participants]
        assert last == (max(asked) if asked else 0)
        own = site.store.load_state(last) if last else {}
        for key, tensor in own.items():
            total[key] = total.get(key, 0) + tensor.double() / 4
    server = federation.coordinator.server.state_dict()
    assert {name.removeprefix("control.") for name in server} == set(total)
    for name, tensor in server.items():
        torch.testing.assert_close(tensor.double(), total[name.removeprefix("control.")], rtol=1e-4, atol=1e-6)
    plain = Federation(run_of("fedavg", rounds=1, evaluate_every=0), wisconsin, tmp_path / "plain").rounds()
    # Parameters twice; statistics of the normalisation layer (2 x 8 and a counter) and the messages once.
    parameters = 4 * (30 * 8 + 8 + 2 * 8 + 2 * 8 + 2)
    for name in ("bytes_up", "bytes_down"):
        ours, theirs = getattr(record.rounds[0], name), getattr(plain.rounds[0], name)
        for site in record.rounds[0].participants:
            # A reply carries its seconds as text.
            assert ours[site] - theirs[site] == pytest.approx(parameters, abs=30)


def test_variates_weighted_by_cases_are_means_by_cases(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    """All sites take part: c is the mean of the sites' c_k by cases, and no plain one."""
    config = run_of({"method": "scaffold", "weighting": "samples"}, rounds=2, participation=1.0, evaluate_every=0)
    federation = Federation(config, list_network(wisconsin), tmp_path / "run")
    record = federation.rounds()
    cases = {name: record.sites[name].train for name in federation.sites}
    kept = {name: site.store.load_state(2) for name, site in federation.sites.items()}
    unlike = []
    for key, tensor in federation.coordinator.server.state_dict().items():
        own = {name: state[key.removeprefix("control.")].double() for name, state in kept.items()}
        mean = sum(cases[name] * value for name, value in own.items()) / sum(cases.values())
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-4, atol=1e-6)
        unlike.append(not torch.allclose(tensor.double(), sum(own.values()) / 4, rtol=1e-3, atol=1e-6))
    assert any(unlike)
