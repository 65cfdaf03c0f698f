"""One contract for all methods: those that come with Consilia, and those of examples/methods."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from consilia.aggregation import UpdateRejected, mean_of_updates, weighted_mean
from consilia.core.determinism import state_digest
from consilia.data.dataset import DatasetSplits, SiteData, Split
from consilia.federation.site_store import SiteStore
from consilia.methods import Client, ClientContext, Mean, Method, Round, Server, TrainingConfig, Update, UpdateMetadata
from consilia.methods.contract import transmitted
from consilia.methods.fedkim import injected
from consilia.methods.fedkim import server as fedkim_server
from consilia.methods.fedkim.method import FedKIM
from consilia.methods.registry import BUILT_IN, make_method, method_config
from consilia.models.prompted_vit import PromptedViT
from tests.methods.fedkim.clinic import (
    context,
    extractor,
    language_model,
    server_cases,
    settings,
    several,
    training_cases,
)
from tests.methods.plugins import EXAMPLE_METHODS, with_method
from tests.models.support import small_vit

TRAINING = TrainingConfig(
    local_epochs=2, batch_size=4, learning_rate=0.05, momentum=0.0, weight_decay=0.0, device="cpu"
)
"""Plain gradient descent, which every method takes."""
HEAD = {name: {"head": "3"} for name in ("fedper", "fedrep", "fedbabu", "moon")}
"""What must be told which layer is the head of a network that does not say it."""


class Case:
    """A method with a network and data that it takes."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.method: Method[Any] = (
            FedKIM(settings())
            if name == "fedkim"
            else make_method(method_config({"method": name, **HEAD.get(name, {})}))
        )

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        if self.name == "fedkim":
            return extractor()
        if self.name == "fedgpl":
            return PromptedViT(small_vit(), 2, prompt_length=2)
        return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))

    def data(self) -> SiteData:
        if self.name == "fedkim":
            return several(mass=8, kidney=6)
        inputs = torch.randn(
            8, *((3, 32, 32) if self.name == "fedgpl" else (5,)), generator=torch.Generator().manual_seed(1)
        )
        split = Split(inputs, torch.arange(8) % 2, tuple(f"case-{i}" for i in range(8)))
        return SiteData("a", {"r": DatasetSplits(("x", "y"), split, split, split)})

    def client(self) -> Client[Any]:
        return self.method.client(ClientContext(self.model(), self.data(), TRAINING, 1))

    def server(self) -> Server[Any]:
        return self.method.server(context(self.folder, model=self.model))

    def round(self, client: Client[Any], server: Server[Any], number: int = 1) -> Round:
        return Round(number, client.state(client.shared), server.payload(number))

    def metadata(self, update: Update) -> UpdateMetadata:
        own = training_cases(self.data()) if self.method.several_datasets else {}
        return UpdateMetadata(update.cases, update.weight, update.fields, own)


@pytest.fixture(params=[*BUILT_IN, *EXAMPLE_METHODS])
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    monkeypatch.setattr(fedkim_server, "load_server_cases", lambda path, task_definitions: server_cases())
    monkeypatch.setattr(injected, "load_language_model", lambda *_, dtype, **__: language_model(dtype))
    with with_method(request.param):
        yield Case(request.param, tmp_path)


def test_an_update_holds_what_is_declared_and_is_accepted(case: Case) -> None:
    client, server = case.client(), case.server()
    begin = case.round(client, server)
    update = client.train(begin)
    declared = transmitted(case.method, case.model())
    sent = {**update.state, **update.extras}
    # A site may lack some of a model's tensors, where it lacks the data that train them.
    assert set(sent) <= set(declared)
    assert case.name == "fedkim" or set(sent) == set(declared)
    assert all(tuple(sent[name].shape) == declared[name].shape for name in sent)
    assert set(update.fields) == {"train_loss", *(field.name for field in case.method.fields())}
    assert (update.weight is None) == (case.method.weight() is None)
    server.check(update.state, update.extras, case.metadata(update), reference=begin.state, max_norm=1e3)


def test_same_state_same_bytes_and_a_client_state_survives_the_disk(case: Case, tmp_path: Path) -> None:
    client, server = case.client(), case.server()
    begin = case.round(client, server)
    first = client.train(begin)
    store = SiteStore(tmp_path / "site")
    store.save_state(1, client.state_dict())
    second = Round(2, first.state if case.name != "fedkim" else begin.state, begin.payload)
    expected = client.train(second)
    other = case.client()
    other.load_state_dict(store.load_state(1))
    again = other.train(second)
    assert state_digest({**again.state, **again.extras}) == state_digest({**expected.state, **expected.extras})
    assert state_digest(_tensors(other)) == state_digest(_tensors(client))


def _tensors(client: Client[Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in client.state_dict().items() if isinstance(value, torch.Tensor)}


def test_a_server_state_survives_and_goes_on(case: Case) -> None:
    client, server = case.client(), case.server()
    begin = case.round(client, server)
    update = client.train(begin)

    def step(half: Server[Any], number: int) -> tuple[dict[str, torch.Tensor], Any]:
        updates = {"a": {**update.state, **update.extras}}
        weights = half.weights({"a": case.metadata(update)})
        extras = weighted_mean(updates, {"a": 1.0}, names=list(half.extras)) if half.extras else {}
        mean = Mean(mean_of_updates(updates, weights, begin.state), extras, 1, 2)
        return dict(half.step(begin.state, mean, number)), half

    step(server, 1)
    other = case.server()
    saved = server.state_dict()
    tensors = {name: value.clone() for name, value in saved.items() if isinstance(value, torch.Tensor)}
    other.load_state_dict({**tensors, **json.loads(json.dumps({k: v for k, v in saved.items() if k not in tensors}))})
    assert state_digest(step(other, 2)[0]) == state_digest(step(server, 2)[0])
    assert state_digest(dict(other.payload(3))) == state_digest(dict(server.payload(3)))


def test_a_personal_model_is_whole_and_leaves_nothing_behind(case: Case) -> None:
    if not case.method.personal:
        return
    client, server = case.client(), case.server()
    client.train(case.round(client, server))
    personal = client.personalize(case.round(client, server, 2))
    assert set(personal) == set(client.state())
    client.load(personal)
    assert state_digest(client.state()) == state_digest(personal)


def test_what_is_not_declared_is_refused(case: Case) -> None:
    client, server = case.client(), case.server()
    begin = case.round(client, server)
    update = client.train(begin)
    good = case.metadata(update)

    def refused(state: Any, extras: Any, metadata: UpdateMetadata = good) -> str:
        with pytest.raises(UpdateRejected) as caught:
            server.check(state, extras, metadata, reference=begin.state, max_norm=None)
        return str(caught.value)

    name = min(name for name, tensor in update.state.items() if tensor.is_floating_point())
    missing = {key: tensor for key, tensor in update.state.items() if key != name}
    assert f"missing tensor {name!r}" in refused(missing, update.extras)
    assert "NaN" in refused({**update.state, name: update.state[name] * torch.nan}, update.extras)
    assert "extra tensor 'patients'" in refused({**update.state, "patients": torch.zeros(2)}, update.extras)
    assert "extra tensor 'patients'" in refused(update.state, {**update.extras, "patients": torch.zeros(2)})
    unknown = UpdateMetadata(good.cases, good.weight, {"label_entropy": 0.5}, good.datasets)
    assert "'label_entropy' is not declared" in refused(update.state, update.extras, unknown)
    heavy = UpdateMetadata(good.cases, 1e9, good.fields, good.datasets)
    assert "weight" in refused(update.state, update.extras, heavy)
    for extra, spec in server.extras.items():
        large = torch.full(spec.shape, 2 * spec.max_norm)
        assert f"norm of tensor {extra!r}" in refused(update.state, {**update.extras, extra: large})
