"""FedAdam, FedYogi and FedAdagrad against loops over plain Python numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from consilia.core.errors import CheckpointError, ConfigError
from consilia.federation.config import run_config
from consilia.methods import Mean, Server
from consilia.methods.registry import method_class
from tests.federation.support import Federation, small
from tests.methods.runs import NORMED, list_network
from tests.methods.support import server_of

METHODS = ("fedadam", "fedyogi", "fedadagrad")


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))


def start() -> dict[str, Tensor]:
    """The first weight moves in one direction, the second back and forth."""
    state = {name: tensor.clone() for name, tensor in model().state_dict().items()}
    state["0.weight"] = torch.tensor([[0.5], [-1.0]])
    return state


MEANS = ([0.6, -0.8], [0.9, -1.3], [0.7, -1.1], [0.7001, -1.0])
"""The mean of the sites' first weights after each round."""


def by_hand(method: str, values: dict[str, float], own: list[float], rate: float = 0.01) -> list[float]:
    """One weight's values after each round, from the formulas of the paper, as floats of Python."""
    beta1, beta2, tau = values["beta1"], values.get("beta2", 0.0), values["tau"]
    x, m, v, found = own[0], 0.0, values["v0"], []
    for mean in own[1:]:
        delta = mean - x
        m = beta1 * m + (1 - beta1) * delta
        if method == "fedadam":
            v = beta2 * v + (1 - beta2) * delta**2
        elif method == "fedadagrad":
            v = v + delta**2
        else:
            v = v - (1 - beta2) * delta**2 * (1 if v > delta**2 else -1 if v < delta**2 else 0)
        x = x + rate * m / (math.sqrt(v) + tau)
        found.append(x)
    return found


def mean_of(state: dict[str, Tensor], weights: list[float]) -> Mean:
    """What the sites come to: new first weights, and statistics that have moved."""
    moved = {**state, "0.weight": torch.tensor(weights).reshape(2, 1)}
    moved["1.running_mean"] = state["1.running_mean"] + 5
    moved["1.running_var"] = state["1.running_var"] * 3
    moved["1.num_batches_tracked"] = state["1.num_batches_tracked"] + 7
    return Mean(moved, {}, 2, 2)


def steps(server: Server[Any], count: int = len(MEANS)) -> list[dict[str, Tensor]]:
    state, found = start(), []
    for number in range(1, count + 1):
        state = dict(server.step(state, mean_of(state, MEANS[number - 1]), number))
        found.append(state)
    return found


@pytest.mark.parametrize(
    ("method", "settings", "values"),
    [
        # The defaults are the paper's: v begins at tau^2.
        ("fedadam", {}, {"beta1": 0.9, "beta2": 0.99, "tau": 1e-3, "v0": 1e-6}),
        ("fedyogi", {}, {"beta1": 0.9, "beta2": 0.99, "tau": 1e-3, "v0": 1e-6}),
        ("fedadagrad", {}, {"beta1": 0.0, "tau": 1e-3, "v0": 1e-6}),
        # So large a tau makes a difference inside and outside the root; FLamby begins at 0.
        ("fedadam", {"tau": 0.5, "initial_second_moment": 0.0}, {"beta1": 0.9, "beta2": 0.99, "tau": 0.5, "v0": 0.0}),
        (
            "fedadagrad",
            {"beta1": 0.9, "tau": 1e-8, "initial_second_moment": 0.0},
            {"beta1": 0.9, "tau": 1e-8, "v0": 0.0},
        ),
        # v above Delta^2 goes down, below it goes up.
        ("fedyogi", {"beta2": 0.5, "initial_second_moment": 1.0}, {"beta1": 0.9, "beta2": 0.5, "tau": 1e-3, "v0": 1.0}),
    ],
)
def test_a_step_is_the_papers(method: str, settings: dict[str, float], values: dict[str, float]) -> None:
    server = server_of({"method": method, "server_learning_rate": 0.1, **settings}, model())
    found = torch.stack([state["0.weight"].reshape(2) for state in steps(server)])
    for column, first in enumerate((0.5, -1.0)):
        own = [first, *(mean[column] for mean in MEANS)]
        expected = by_hand(method, values, own, rate=0.1)
        # The server's step begins where the one before has ended, and so do the means of this test.
        assert found[:, column].tolist() == pytest.approx(expected, rel=1e-5)


def test_the_change_is_added_not_subtracted() -> None:
    for method in METHODS:
        moved = steps(server_of(method, model()), 1)[0]["0.weight"] - start()["0.weight"]
        # The sites moved the first weight up by 0.1 and the second by 0.2.
        assert bool((moved > 0).all()), method


def test_the_first_step_has_no_correction_of_bias() -> None:
    # Delta 0.1: m = 0.01, v = 0.99e-6 + 0.0001. With the correction the step would be the whole rate.
    moved = steps(server_of("fedadam", model()), 1)[0]["0.weight"][0] - 0.5
    assert float(moved) == pytest.approx(0.01 * 0.01 / (math.sqrt(0.99e-6 + 1e-4) + 1e-3), rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_running_statistics_take_the_plain_mean(method: str) -> None:
    server = server_of(method, model())
    last = steps(server)[-1]
    assert last["1.running_mean"].tolist() == [20.0, 20.0]
    assert last["1.running_var"].tolist() == [81.0, 81.0]
    assert last["1.num_batches_tracked"] == 28
    assert {name.partition(".")[2] for name in server.state_dict()} == {"0.weight", "0.bias", "1.weight", "1.bias"}


@pytest.mark.parametrize("method", METHODS)
def test_in_half_precision_the_moments_keep_theirs(method: str) -> None:
    """tau^2 is nothing in float16, and a small change squared neither."""
    server = server_of(method, nn.Linear(1, 1))
    state = {"weight": torch.tensor([[1.0]], dtype=torch.float16), "bias": torch.zeros(1, dtype=torch.float16)}
    change = torch.tensor([2**-14], dtype=torch.float16)
    after = server.step(state, Mean({**state, "bias": change}, {}, 2, 2), 1)
    assert {tensor.dtype for tensor in after.values()} == {torch.float16}
    assert {tensor.dtype for tensor in server.state_dict().values()} == {torch.float32}
    values = {"beta1": 0.0 if method == "fedadagrad" else 0.9, "beta2": 0.99, "tau": 1e-3, "v0": 1e-6}
    expected = by_hand(method, values, [0.0, 2**-14])
    assert float(after["bias"]) == pytest.approx(expected[0], rel=1e-3)


def test_tied_parameters_move_together() -> None:
    """A site loads both names, so the second must not hold the plain mean."""
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    mean = Mean({name: tensor + 1 for name, tensor in state.items()}, {}, 2, 2)
    after = server_of("fedadam", network).step(state, mean, 1)
    assert torch.equal(after["0.weight"], after["1.weight"])
    assert not torch.equal(after["1.weight"], mean.state["1.weight"])


def test_moments_of_another_model_are_refused() -> None:
    server = server_of("fedadam", model())
    steps(server)
    with pytest.raises(CheckpointError, match="moments are not those of this model under fedadam"):
        server_of("fedadam", nn.Linear(1, 1)).load_state_dict(server.state_dict())
    with pytest.raises(CheckpointError):
        server.load_state_dict({"first.0.weight": torch.zeros(2, 1)})


@pytest.mark.parametrize(
    "wrong", [{"server_learning_rate": 0}, {"tau": 0}, {"beta1": 1}, {"beta2": 1}, {"initial_second_moment": -1}]
)
def test_values_that_cannot_be_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        small({"method": "fedadam", **wrong})


def test_the_grid_is_of_a_key_and_can_be_configured() -> None:
    for method in METHODS:
        ((key, values),) = method_class(method).grid.items()
        for value in values:
            assert getattr(small({"method": method, key: value}).method, key) == value


def test_a_run_is_fedavgs_updates_and_the_servers_own_step(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    """The first round of both begins with the same model: same updates, so FedAvg's mean gives FedAdam's model."""
    list_network(wisconsin)
    settings = {"model": NORMED, "rounds": 1, "evaluate_every": 0}

    def after(method: Any, folder: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        federation = Federation(small(method, **settings), wisconsin, tmp_path / folder)
        before = {name: tensor.clone() for name, tensor in federation.coordinator.state.items()}
        federation.rounds()
        return before, dict(federation.coordinator.state)

    before, mean = after("fedavg", "a")
    _, moved = after({"method": "fedadam", "initial_second_moment": 0.0, "tau": 0.25}, "b")
    for name, old in before.items():
        if name.startswith("norm.") and ("running" in name or "tracked" in name):
            assert torch.equal(moved[name], mean[name])
        else:
            delta = (mean[name] - old).double()
            expected = old.double() + 0.01 * 0.1 * delta / ((0.01 * delta**2).sqrt() + 0.25)
            torch.testing.assert_close(moved[name].double(), expected, rtol=1e-6, atol=1e-7)


def test_flambys_settings_are_a_configuration() -> None:
    flamby = {"beta1": 0.9, "beta2": 0.999, "tau": 1e-8, "initial_second_moment": 0.0, "server_learning_rate": 0.01}
    config = run_config(small({"method": "fedyogi", **flamby}).to_json())
    assert {key: getattr(config.method, key) for key in flamby} == flamby
