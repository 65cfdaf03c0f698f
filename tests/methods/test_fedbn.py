"""FedBN: what stays is told by the type of the layer, and a model of which nothing would stay is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from consilia.core.determinism import state_digest
from consilia.core.errors import ConfigError
from consilia.methods import CannotEvaluate, Round
from consilia.methods.registry import make_method, method_config
from tests.federation.support import Federation, small
from tests.methods.linear import SGD, data
from tests.methods.runs import list_network, run_of
from tests.methods.support import client_of

STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}


def shared_of(model: nn.Module) -> list[str]:
    return make_method(method_config("fedbn")).exchanged(model)


def test_affine_parameters_and_statistics_stay() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    client = client_of("fedbn", model, data(), SGD)
    assert client.shared == ["0.weight", "0.bias", "2.weight", "2.bias"]
    before = client.state(client.private)
    update = client.train(Round(1, client.state(client.shared)))
    assert set(update.state) == set(client.shared)
    after = client.state_dict()
    assert set(after) == {f"1.{name}" for name in {"weight", "bias", *STATISTICS}}
    assert not any(torch.equal(before[name], after[name]) for name in after)
    # Another global model leaves them as they are.
    client.load({name: tensor + 1 for name, tensor in update.state.items()})
    assert state_digest(client.state_dict()) == state_digest(after)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(4),
        nn.SyncBatchNorm(4),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.LayerNorm(4),
        nn.GroupNorm(2, 4),
        nn.RMSNorm(4),
        type("Named", (nn.BatchNorm1d,), {})(4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_normalisation_layer_is_known_by_its_type_whatever_its_name(layer: nn.Module) -> None:
    model = nn.ModuleDict({"first": nn.Linear(2, 4), "whatever": layer})
    assert shared_of(model) == ["first.weight", "first.bias"]


def test_what_is_only_called_so_is_exchanged() -> None:
    model = nn.ModuleDict({"norm": nn.Linear(2, 4), "bn": nn.BatchNorm1d(4)})
    assert shared_of(model) == ["norm.weight", "norm.bias"]


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False, track_running_stats=False)),
        nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2).requires_grad_(False)),
    ],
    ids=["none", "without parameters", "frozen"],
)
def test_a_model_of_which_nothing_would_stay_is_refused(model: nn.Module) -> None:
    with pytest.raises(
        ConfigError, match="expected a model with normalisation layers that are trained, got Sequential"
    ):
        shared_of(model)


def test_such_a_run_is_refused_before_anything_trains(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got MLP, of which nothing would stay at the sites: take fedavg"):
        Federation(small("fedbn"), wisconsin, tmp_path / "run")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_site_that_only_tests_says_why_it_cannot_judge(
    wisconsin: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = list_network(wisconsin)["hospital-4"]
    path.write_text(path.read_text().replace("format: tabular", "format: tabular\n    test_only: true"))
    config = run_of("fedbn", rounds=1, participation=1.0, test_only_sites=["hospital-4"])
    record = Federation(config, wisconsin, tmp_path / "run").run()
    assert "site hospital-4 does not evaluate the global model: with FedBN" in caplog.text
    # No model is every site's, so none is shown as the global one.
    assert record.final["last"].global_ == {}
    assert sorted(record.final["last"].personal) == ["hospital-1", "hospital-2", "hospital-3"]
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    with pytest.raises(CannotEvaluate, match="normalisation layers of its own"):
        client_of("fedbn", model, data(test_only=True), SGD).state_for("global", {})


def test_sites_differ_in_their_layers_and_share_the_rest(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    federation = Federation(run_of("fedbn", rounds=2, participation=1.0), list_network(wisconsin), tmp_path / "run")
    federation.rounds()
    assert not [name for name in federation.coordinator.state if name.startswith("norm.")]
    kept = [site.store.load_state(2) for site in federation.sites.values()]
    assert {tuple(sorted(item)) for item in kept} == {
        tuple(sorted(f"norm.{name}" for name in {"weight", "bias", *STATISTICS}))
    }
    for name in ("norm.weight", "norm.running_mean"):
        assert len({tuple(item[name].tolist()) for item in kept}) == 4
