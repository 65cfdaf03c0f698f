"""Whole runs of the methods that treat the head apart: what records and reports say of a global model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from consilia.core.determinism import state_digest
from consilia.core.errors import ConfigError
from consilia.evaluation.summary import summarise
from consilia.federation.messages import Broadcast, Reply
from consilia.record.schema import Record
from tests.federation.support import Federation, model_of, small

HEAD = ["layers.2.weight", "layers.2.bias"]
SHORT = {"local_epochs": 2, "batch_size": 16, "learning_rate": 0.05, "device": "cpu"}


@pytest.fixture
def sites(wisconsin: dict[str, Path]) -> dict[str, Path]:
    """Three that train, and hospital-4, which only tests."""
    path = wisconsin["hospital-4"]
    path.write_text(path.read_text().replace("format: tabular", "format: tabular\n    test_only: true"))
    return wisconsin


def run(method: str, sites: dict[str, Path], folder: Path, **settings: Any) -> tuple[Record, Federation, set[str]]:
    """A run of two rounds, and the names of all tensors that were sent up."""
    values = {"rounds": 2, "training": SHORT, "test_only_sites": ["hospital-4"], **settings}
    federation, sent = Federation(small(method, **values), sites, folder), set[str]()

    def look(site: str, item: Broadcast, reply: Reply) -> Reply:
        sent.update(reply.tensors)
        return reply

    federation.bend = look  # type: ignore[method-assign]
    return federation.run(), federation, sent


@pytest.mark.parametrize("method", ["fedper", "fedrep"])
def test_without_a_global_model_its_columns_are_empty(
    method: str, sites: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record, federation, sent = run(method, sites, tmp_path / "run")
    assert f"hospital-4 does not evaluate the global model: with {method} every site" in caplog.text
    assert sent == {"layers.0.weight", "layers.0.bias"}
    # Validation cases have chosen a round all the same, by the bodies with each site's own head.
    assert record.run.best_by == "loss"
    assert record.final["best"].version > 0
    summary = summarise(record)
    for numbers in (summary.numbers("last"), summary.numbers("best")):
        assert not {name for name, value in numbers.items() if "global" in name and value is not None}
        assert numbers["personal_accuracy"] is not None
    assert not [item for item in record.evaluations if item.model == "global"]
    assert sorted(record.final["last"].personal) == ["hospital-1", "hospital-2", "hospital-3"]
    # Every site has a head of its own, and one body for all.
    heads = set()
    for name in record.final["last"].personal:
        personal = load_file(federation.sites[name].folder / "personal-last.safetensors")
        heads.add(state_digest({part: personal[part] for part in HEAD}))
        page = (federation.sites[name].folder / "report-last.html").read_text()
        assert "personal" in page
    assert len(heads) == 3


def test_fedbabus_global_model_is_judged_everywhere(sites: dict[str, Path], tmp_path: Path) -> None:
    record, federation, sent = run("fedbabu", sites, tmp_path / "run")
    assert sent == {"layers.0.weight", "layers.0.bias"}
    assert sorted(record.final["last"].global_) == sorted(sites)
    first = model_of(federation.config).state_dict()
    for site in federation.sites.values():
        assert all(torch.equal(site.client.initial_head[name], first[name]) for name in HEAD)
    personal = load_file(federation.sites["hospital-1"].folder / "personal-last.safetensors")
    assert not any(torch.equal(personal[name], first[name]) for name in HEAD)


def test_fedntd_on_two_classes_gives_fedavgs_model(sites: dict[str, Path], tmp_path: Path) -> None:
    """Asserted here, so that no study need run it."""
    digests = set()
    for method in ("fedavg", "fedntd"):
        federation = Federation(small(method, rounds=2, training=SHORT), sites, tmp_path / method)
        digests.add(federation.rounds().rounds[-1].sha256)
    assert len(digests) == 1


@pytest.mark.parametrize("method", ["fedper", "moon"])
def test_a_model_without_a_head_stops_a_run_before_it_begins(
    method: str, sites: dict[str, Path], tmp_path: Path
) -> None:
    for path in sites.values():
        path.write_text(f"{path.read_text()}\nallow_models: [torch.nn.Bilinear]\n")
    model = {"class": "torch.nn.Bilinear", "args": {"in1_features": 30, "in2_features": 30, "out_features": 2}}
    with pytest.raises(ConfigError, match=r"Bilinear does not say which layer is its head: set method\.head"):
        Federation(small(method, model=model), sites, tmp_path / "run")
