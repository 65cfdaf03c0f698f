"""FedCurv against loops written out: other sites' terms alone, single cases' gradients squared, last terms kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from consilia.core.determinism import state_digest
from consilia.data.dataset import SiteData, Split
from consilia.methods import Mean, Round, Update
from consilia.methods.registry import make_method, method_config
from tests.federation.support import Federation
from tests.methods.linear import DECAY, RATE, SGD, State, close, data, gradient, linear
from tests.methods.runs import list_network, run_of
from tests.methods.support import client_of, server_of

LAM = 0.7
METHOD = {"method": "fedcurv", "lam": LAM}


def fisher(weights: State, split: Split) -> State:
    """Every case by itself: the square of its gradient, and the mean of the squares."""
    found = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for row in range(len(split)):
        slope = gradient(weights, Split(split.inputs[row : row + 1], split.labels[row : row + 1], ("",)))
        found = {name: found[name] + slope[name] ** 2 / len(split) for name in found}
    return found


def trained(start: State, split: Split, others: list[tuple[State, State]], number: int) -> State:
    """One step on all cases, with the gradient of each other site's (theta - theta_j)^T F_j (theta - theta_j)."""
    slope, rate = gradient(start, split), RATE * DECAY ** (number - 1)
    for information, theta in others:
        slope = {name: slope[name] + 2 * LAM * information[name] * (start[name] - theta[name]) for name in slope}
    return {name: start[name] - rate * slope[name] for name in start}


def mean_of(updates: list[Update], state: State, trainers: int) -> Mean:
    extras = {key: sum(update.extras[key] for update in updates) / len(updates) for key in updates[0].extras}
    return Mean(state, extras, len(updates), trainers)


def test_three_sites_and_one_of_them_not_sampled_by_hand() -> None:
    """Round 1: a and b. Round 2: a and c, with b's terms of round 1. Round 3: a and b, with their own terms renewed."""
    sites: dict[str, SiteData] = {"a": data(4), "b": data(3), "c": data(2)}
    clients = {name: client_of(METHOD, linear(), own, SGD) for name, own in sites.items()}
    server = server_of(METHOD, linear())
    x = {name: tensor.clone() for name, tensor in linear().state_dict().items()}
    terms: dict[str, tuple[State, State]] = {}
    for number, asked in enumerate((("a", "b"), ("a", "c"), ("a", "b")), start=1):
        updates, renewed = [], {}
        for name in asked:
            update = clients[name].train(Round(number, x, server.payload(number)))
            others = [terms[other] for other in terms if other != name]
            theta = trained(x, sites[name].train, others, number)
            close(dict(update.state), theta)
            renewed[name] = (fisher(theta, sites[name].train), theta)
            updates.append(update)
        terms |= renewed
        x = {name: tensor + 0.2 for name, tensor in x.items()}
        assert server.step(x, mean_of(updates, x, 3), number) is x
        payload = server.payload(number + 1)
        for key, tensor in x.items():
            total = sum((information[key] for information, _ in terms.values()), torch.zeros_like(tensor))
            product = sum((f[key] * theta[key] for f, theta in terms.values()), torch.zeros_like(tensor))
            torch.testing.assert_close(payload[f"fisher.{key}"], total, rtol=1e-4, atol=1e-7)
            torch.testing.assert_close(payload[f"fisher_product.{key}"], product, rtol=1e-4, atol=1e-7)


def test_a_batch_of_gradients_squared_would_be_another_number() -> None:
    own, weights = data(4), linear().state_dict()
    of_the_mean = {name: tensor**2 for name, tensor in gradient(weights, own.train).items()}
    ours = fisher(dict(weights), own.train)
    assert all(bool((ours[name] >= of_the_mean[name]).all()) for name in ours)
    assert not torch.allclose(ours["weight"], of_the_mean["weight"], rtol=0.1)


def test_a_site_alone_is_not_pulled_towards_itself() -> None:
    """With no other site the sums are its own terms: it trains as with FedAvg, with any lambda."""
    found: dict[str, list[State]] = {"fedcurv": [], "fedavg": []}
    for name, states in found.items():
        method = {"method": name, "lam": 9.0} if name == "fedcurv" else name
        client, server = client_of(method, linear(), data(), SGD), server_of(method, linear())
        x = client.state()
        for number in (1, 2, 3):
            update = client.train(Round(number, x, server.payload(number)))
            if update.extras:
                server.step(x, mean_of([update], x, 1), number)
            states.append(dict(update.state))
            x = {key: tensor + 0.1 for key, tensor in update.state.items()}
    # Before any terms to the byte, and then but for rounding.
    assert state_digest(found["fedcurv"][0]) == state_digest(found["fedavg"][0])
    for ours, plain in zip(*found.values(), strict=True):
        close(ours, plain)


def test_training_loss_is_of_the_task_alone() -> None:
    own = data()
    weights = dict(linear().state_dict())
    server = server_of(METHOD, linear())
    server.load_state_dict({key: tensor + 50 for key, tensor in server.payload(1).items()})
    update = client_of(METHOD, linear(), own, SGD).train(Round(1, weights, server.payload(1)))
    shares = (own.train.inputs @ weights["weight"].T + weights["bias"]).softmax(1)
    expected = float(-shares[torch.arange(4), own.train.labels].log().mean())
    assert update.fields["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_no_information_of_buffers_and_of_what_is_frozen() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    method = make_method(method_config("fedcurv"))
    names = ["1.weight", "1.bias", "2.weight", "2.bias"]
    assert sorted(method.payload(model)) == sorted(
        f"{kind}{name}" for name in names for kind in ("fisher.", "fisher_product.")
    )
    assert {spec.max_norm for spec in method.extras(model).values()} == {1000.0}
    client = client_of(METHOD, model, data(), SGD)
    before = client.state()
    update = client.train(Round(1, before, server_of(METHOD, model).payload(1)))
    assert {key.removeprefix("change_of.") for key in update.extras} == set(method.payload(model))
    # Running statistics are of training alone: to measure the information moves nothing.
    plain = client_of("fedavg", model, data(), SGD)
    plain.load(before)
    assert state_digest(plain.train(Round(1, before)).state) == state_digest(update.state)


def test_a_run_sends_three_times_the_parameters_and_excludes_own_terms(
    wisconsin: dict[str, Path], tmp_path: Path
) -> None:
    list_network(wisconsin)
    settings = {"rounds": 3, "evaluate_every": 0}
    federation = Federation(run_of("fedcurv", **settings), wisconsin, tmp_path / "run")
    record = federation.rounds()
    # The server's sums are those of the terms that every site keeps.
    total: dict[str, Tensor] = {}
    for name, site in federation.sites.items():
        last, _ = federation.coordinator.participants.accepted.of(name)
        for key, tensor in (site.store.load_state(last) if last else {}).items():
            total[key] = total.get(key, torch.zeros_like(tensor)) + tensor
    sums = federation.coordinator.server.state_dict()
    assert set(sums) == set(total)
    for key, tensor in sums.items():
        torch.testing.assert_close(tensor, total[key], rtol=1e-4, atol=1e-7)
        assert not key.startswith("fisher.") or bool((tensor > -1e-7).all())
    plain = Federation(run_of("fedavg", **settings), wisconsin, tmp_path / "plain").rounds()
    parameters = 4 * (30 * 8 + 8 + 2 * 8 + 2 * 8 + 2)
    for name in ("bytes_up", "bytes_down"):
        ours, theirs = getattr(record.rounds[0], name), getattr(plain.rounds[0], name)
        for site in record.rounds[0].participants:
            # A reply carries its seconds as text.
            assert ours[site] - theirs[site] == pytest.approx(2 * parameters, abs=30)
    # Before any terms there is nothing to be pulled to.
    assert record.rounds[0].sha256 == plain.rounds[0].sha256
    assert record.rounds[2].sha256 != plain.rounds[2].sha256
