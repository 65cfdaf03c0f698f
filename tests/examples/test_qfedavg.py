"""q-FedAvg, the method outside Consilia's package, against loops written out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from consilia.core.errors import ConfigError
from consilia.methods import Mean, Round
from tests.federation.support import Federation, model_of, small
from tests.methods.linear import RATE, SGD, close, data, gradient, linear, loss
from tests.methods.plugins import EXAMPLES, plugin
from tests.methods.runs import list_network, run_of
from tests.methods.support import client_of, server_of

FILE = EXAMPLES / "qfedavg.py"


@pytest.fixture(autouse=True)
def example() -> Iterator[None]:
    with plugin(FILE):
        yield


def method(q: float) -> dict[str, object]:
    return {"method": "qfedavg", "q": q}


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0, 3.0])
def test_a_round_of_two_sites_is_the_papers(q: float) -> None:
    """Algorithm 2, line by line: Delta w, Delta and h of either site, and the step of the server."""
    start = {name: tensor.clone() for name, tensor in linear().state_dict().items()}
    deltas: dict[str, list[Tensor]] = {name: [] for name in start}
    denominator, updates = 0.0, []
    for cases in (4, 3):
        own = data(cases)
        slope = gradient(start, own.train)
        # One batch of all cases: L (x - y) is the gradient.
        f = loss(start, own.train)
        squared = float(sum(tensor.square().sum() for tensor in slope.values()))
        for name, tensor in slope.items():
            deltas[name].append(f**q * tensor)
        denominator += q * f ** (q - 1) * squared + f**q / RATE
        update = client_of(method(q), linear(), own, SGD).train(Round(1, start))
        close(dict(update.state), {name: start[name] - RATE * slope[name] for name in start})
        assert update.weight == pytest.approx(f**q, rel=1e-5)
        updates.append(update)
    expected = {name: start[name] - sum(deltas[name]) / denominator for name in start}
    shares = torch.tensor([update.weight for update in updates])
    mean = {name: sum(u.state[name] * s for u, s in zip(updates, shares / shares.sum(), strict=True)) for name in start}
    sums = torch.stack([update.extras["fairness_sums"] for update in updates]).mean(dim=0)
    found = server_of(method(q), linear()).step(start, Mean(mean, {"fairness_sums": sums}, 2, 2), 1)
    close(dict(found), expected)
    if q == 0:
        close(dict(found), mean)


def test_buffers_take_the_mean() -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mean = {name: tensor + 4 for name, tensor in start.items()}
    found = server_of(method(1), model).step(start, Mean(mean, {"fairness_sums": torch.tensor([1.0, 4.0])}, 2, 2), 1)
    assert torch.equal(found["1.running_mean"], mean["1.running_mean"])
    assert torch.equal(found["0.weight"], start["0.weight"] + 1)


def test_in_a_run_a_site_of_larger_loss_weighs_more(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    list_network(wisconsin)
    config = run_of(method(2), rounds=2, participation=1.0, evaluate_every=0)
    record = Federation(config, wisconsin, tmp_path / "run").rounds()
    for item in record.rounds:
        weights = [site.weight for site in item.contributions.values()]
        assert sum(weights) == pytest.approx(1)
        assert len(set(weights)) == 4


def test_a_changed_plugin_is_another_run(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    config = run_of("qfedavg")
    job = json.loads(json.dumps(config.to_json()))
    changed = tmp_path / "qfedavg.py"
    changed.write_text(FILE.read_text() + "\n# changed\n")
    with plugin(changed):
        assert run_of("qfedavg").run_id != config.run_id
        with pytest.raises(ConfigError, match="name that very file with --plugin"):
            small(**job)
    assert model_of(config) is not None


def test_it_is_the_one_method_of_the_package_and_small() -> None:
    assert [path.name for path in EXAMPLES.glob("*.py")] == ["qfedavg.py"]
    assert len(FILE.read_text().splitlines()) < 100
