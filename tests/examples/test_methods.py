"""Ditto, FedBN and SCAFFOLD from outside the package: by hand, and over whole runs that break and go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from consilia.core.determinism import derive_seed, state_digest
from consilia.core.errors import ConfigError
from consilia.data.dataset import DatasetSplits, SiteData, Split, empty_split
from consilia.data.site import load_site_config
from consilia.federation.messages import Broadcast, Reply
from consilia.federation.release_manifest import manifest_of
from consilia.federation.site import Site
from consilia.methods import CannotEvaluate, Mean, Round, TrainingConfig
from tests.examples.support import example_config, list_network
from tests.federation.support import Federation, model_of, small, stop_in
from tests.methods.plugins import EXAMPLE_METHODS, EXAMPLES, plugin
from tests.methods.support import client_of, server_of

SGD = TrainingConfig(local_epochs=1, batch_size=4, learning_rate=0.1, momentum=0.0, weight_decay=0.0, device="cpu")


@pytest.fixture(params=EXAMPLE_METHODS)
def method(request: pytest.FixtureRequest) -> Iterator[str]:
    with plugin(EXAMPLES / f"{request.param}.py"):
        yield request.param


@pytest.fixture
def example(request: pytest.FixtureRequest) -> Iterator[None]:
    with plugin(EXAMPLES / f"{request.param}.py"):
        yield


def data(cases: int = 4, *, test_only: bool = False) -> SiteData:
    order = torch.Generator().manual_seed(3)
    inputs = torch.randn(cases, 2, generator=order)
    split = Split(inputs, (inputs[:, 0] > 0).long(), tuple(f"case-{i}" for i in range(cases)))
    none = empty_split(inputs)
    return SiteData("a", {"r": DatasetSplits(("x", "y"), none if test_only else split, none, split)})


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, 2)


def gradient(weights: dict[str, torch.Tensor], split: Split) -> dict[str, torch.Tensor]:
    """Of the cross-entropy of a linear model, written out: softmax minus one-hot, over the cases."""
    inputs = split.inputs
    shares = (inputs @ weights["weight"].T + weights["bias"]).softmax(dim=1)
    error = (shares - nn.functional.one_hot(split.labels, 2)) / len(inputs)
    return {"weight": error.T @ inputs, "bias": error.sum(dim=0)}


# ---- by hand -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", ["ditto"], indirect=True)
def test_ditto_by_hand(example: None) -> None:
    own = data()
    client = client_of({"method": "ditto", "lam": 0.5, "personal_epochs": 2}, linear(), own, SGD)
    start = client.state()
    update = client.train(Round(1, start))
    slope = gradient(start, own.train)
    # One batch of all cases: w_k = w - 0.1 grad F(w).
    for name, tensor in update.state.items():
        torch.testing.assert_close(tensor, start[name] - 0.1 * slope[name])
    v = dict(start)
    for _ in range(2):
        slope = gradient(v, own.train)
        v = {name: v[name] - 0.1 * (slope[name] + 0.5 * (v[name] - start[name])) for name in v}
    for name, tensor in client.state_for("personal", start).items():
        torch.testing.assert_close(tensor, v[name])
    # Personalising changes nothing, and the next round goes on from v with the new global model as the anchor.
    assert state_digest(client.personalize(Round(2, start))) == state_digest(client.state_dict())
    other = {name: tensor + 1 for name, tensor in start.items()}
    client.train(Round(2, other))
    for _ in range(2):
        slope, rate = gradient(v, own.train), 0.1 * 0.99
        v = {name: v[name] - rate * (slope[name] + 0.5 * (v[name] - other[name])) for name in v}
    for name, tensor in client.state_dict().items():
        torch.testing.assert_close(tensor, v[name])


@pytest.mark.parametrize("example", ["scaffold"], indirect=True)
def test_scaffold_by_hand(example: None) -> None:
    own = data(8)
    client = client_of("scaffold", linear(), own, SGD)
    start = client.state()
    c = {"weight": torch.full((2, 2), 0.1), "bias": torch.full((2,), -0.2)}
    order = torch.Generator().manual_seed(derive_seed(1, "batches", "a", 1))
    y = dict(start)
    for index in torch.randperm(8, generator=order).split(4):
        slope = gradient(y, Split(own.train.inputs[index], own.train.labels[index], ("",) * 4))
        y = {name: y[name] - 0.1 * (slope[name] + c[name]) for name in y}  # c_k is 0 in the first round
    update = client.train(Round(1, start, {f"control.{name}": tensor for name, tensor in c.items()}))
    for name in y:
        torch.testing.assert_close(update.state[name], y[name])
        # c_k+ - c_k = -c + (x - y) / (K eta), K = 2.
        delta = (start[name] - y[name]) / 0.2 - c[name]
        torch.testing.assert_close(update.extras[f"control_delta.{name}"], delta)
        torch.testing.assert_close(client.state_dict()[name], delta)
    server = server_of("scaffold", linear())
    assert server.weights({"a": None, "b": None}) == {"a": 1.0, "b": 1.0}  # type: ignore[dict-item]
    mean = Mean(y, update.extras, sites=2, trainers=8)
    assert server.step(start, mean, 1) is y
    for name in y:
        torch.testing.assert_close(server.payload(2)[f"control.{name}"], update.extras[f"control_delta.{name}"] / 4)
    with pytest.raises(ConfigError, match=r"training\.momentum: 0"):
        small("scaffold")


@pytest.mark.parametrize("example", ["fedbn"], indirect=True)
def test_fedbn_keeps_its_normalisation_layers(example: None) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    client = client_of("fedbn", model, data(), SGD)
    assert client.shared == ["0.weight", "0.bias", "2.weight", "2.bias"]
    before = client.state(client.private)
    update = client.train(Round(1, client.state(client.shared)))
    assert set(update.state) == set(client.shared)
    after = client.state_dict()
    assert set(after) == {
        f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert not torch.equal(before["1.running_mean"], after["1.running_mean"])
    elsewhere = client_of("fedbn", model, data(test_only=True), SGD)
    with pytest.raises(CannotEvaluate, match="normalisation layers of its own"):
        elsewhere.state_for("global", {})


# ---- whole runs ----------------------------------------------------------------------------------------------------


def open_run(config: Any, sites: dict[str, Path], folder: Path) -> Federation:
    return Federation(config, sites, folder)


def models(federation: Federation) -> dict[str, str]:
    """Digests of the global models, and of what every site keeps: personal models and the client state."""
    found = {
        "last": state_digest(federation.coordinator.state),
        "best": state_digest(federation.coordinator.best.state),
    }
    for name, site in federation.sites.items():
        for path in sorted(site.folder.glob("personal-*.safetensors")):
            found[f"{name}/{path.name}"] = state_digest(load_file(path))
        last, _ = federation.coordinator.participants.accepted.of(name)
        for path in site.folder.glob(f"client-{last:05d}.safetensors"):
            found[f"{name}/client"] = state_digest(load_file(path))
    return found


@pytest.fixture
def unbroken(method: str, listed: dict[str, Path], tmp_path: Path) -> dict[str, str]:
    federation = open_run(example_config(method), listed, tmp_path / "unbroken")
    federation.run()
    found = models(federation)
    assert sum(name.endswith("/client") for name in found) >= 2
    return found


@pytest.fixture
def listed(wisconsin: dict[str, Path]) -> dict[str, Path]:
    """The sites, which also list the network of FedBN's runs."""
    return list_network(wisconsin)


# With nothing kept from before, and with states of several rounds; round 2 adds neither.
@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, pytest.param(2, marks=pytest.mark.long), 3])
def test_killed_and_resumed_it_ends_in_the_same_bytes(
    method: str, listed: dict[str, Path], tmp_path: Path, unbroken: dict[str, str], stop_after: int
) -> None:
    config = example_config(method)
    broken = open_run(config, listed, tmp_path / "broken")
    # One site has trained and kept its new state, which no global model will know of.
    stop_in(broken, stop_after, trained=2)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    again = open_run(config, listed, tmp_path / "broken")
    again.run()
    assert models(again) == unbroken


@pytest.mark.slow
def test_a_reply_too_late_leaves_no_trace_in_what_the_site_keeps(
    method: str, listed: dict[str, Path], tmp_path: Path
) -> None:
    """A late site's state counts as if it had not trained: equal to a run in which its reply was lost before."""

    def run(folder: Path, *, relaunched: bool) -> dict[str, str]:
        federation = open_run(example_config(method, participation=1.0), listed, folder)

        def lose(site: str, item: Broadcast, reply: Reply) -> Reply | None:
            late = item.request.kind == "train" and item.request.round == 1 and site == "hospital-1"
            if late and relaunched:
                federation.sites[site] = Site(federation.config, load_site_config(listed[site]))
            return None if late else reply

        federation.bend = lose  # type: ignore[method-assign]
        federation.run()
        assert federation.coordinator.recorder.rounds[1].missing == ["hospital-1"]
        return models(federation)

    assert run(tmp_path / "late", relaunched=False) == run(tmp_path / "relaunched", relaunched=True)


@pytest.mark.slow
def test_manifest_and_wire_are_the_same(method: str, listed: dict[str, Path], tmp_path: Path) -> None:
    config = example_config(method, rounds=1)
    federation = open_run(config, listed, tmp_path / "run")
    manifest = manifest_of(config, model_of(config))
    sent: set[str] = set()

    def look(site: str, item: Broadcast, reply: Reply) -> Reply:
        manifest.check(item.request.kind, reply.content, reply.tensors, "")
        sent.update(reply.tensors)
        return reply

    federation.bend = look  # type: ignore[method-assign]
    federation.run()
    assert sent == set(manifest.tensors)
    assert not [name for name in sent if method == "fedbn" and name.startswith("norm")]


@pytest.mark.parametrize("example", ["fedbn"], indirect=True)
def test_a_test_only_site_says_why_it_cannot_judge(
    example: None, listed: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = listed["hospital-4"]
    path.write_text(path.read_text().replace("format: tabular", "format: tabular\n    test_only: true"))
    config = example_config("fedbn", rounds=1, participation=1.0, test_only_sites=["hospital-4"])
    federation = open_run(config, listed, tmp_path / "run")
    record = federation.run()
    assert "site hospital-4 does not evaluate the global model: with FedBN" in caplog.text
    assert sorted(record.final["last"].global_) == ["hospital-1", "hospital-2", "hospital-3"]


@pytest.mark.parametrize("example", ["ditto"], indirect=True)
def test_a_changed_plugin_is_another_run(example: None, listed: dict[str, Path], tmp_path: Path) -> None:
    config = example_config("ditto")
    job = json.loads(json.dumps(config.to_json()))
    changed = tmp_path / "ditto.py"
    changed.write_text((EXAMPLES / "ditto.py").read_text() + "\n# changed\n")
    with plugin(changed):
        assert example_config("ditto").run_id != config.run_id
        with pytest.raises(ConfigError, match="name that very file with --plugin"):
            small(**job)
    assert model_of(config) is not None
