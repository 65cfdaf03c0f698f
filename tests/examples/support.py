"""Runs of the example methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from consilia.core.files import sha256_of_file
from consilia.federation.config import RunConfig
from tests.federation.support import MLP, small

NETWORK = "tests.examples.networks.Normed"
NORMED = {"class": NETWORK, "args": {"in_features": 30, "num_classes": 2}}
CONVERGENT = {"learning_rate": 0.05, "momentum": 0.0, "local_epochs": 2, "batch_size": 16, "device": "cpu"}


def example_config(method: str, **settings: Any) -> RunConfig:
    """Four rounds on the Wisconsin table; with FedBN, of a network that has a normalisation layer."""
    model = {"model": NORMED} if method == "fedbn" else {}
    return small(method, **{"training": CONVERGENT, "rounds": 4, "participation": 0.5, **model, **settings})


def list_network(sites: Mapping[str, Path], more: str = "") -> dict[str, Path]:
    """The same sites, which now list the network of FedBN's runs; ``more`` is added to each site.yaml."""
    for path in sites.values():
        path.write_text(f"{path.read_text()}\nallow_models: [{NETWORK}, {MLP}]\n{more}")
    return dict(sites)


def kept_at(sites: Mapping[str, Path], run_id: str) -> dict[str, str]:
    """SHA-256 of what every site keeps of a run: its personal models and the method's own state."""
    found = {}
    for name, site in sites.items():
        folder = site.parent / "state" / "runs" / run_id
        for path in sorted([*folder.glob("personal-*.safetensors"), *folder.glob("client-*.safetensors")]):
            found[f"{name}/{path.name}"] = sha256_of_file(path)
    return found
