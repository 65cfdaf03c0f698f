"""Runs of any method on a network with a normalisation layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from consilia.core.files import sha256_of_file
from consilia.federation.config import RunConfig
from tests.federation.support import MLP, small

NETWORK = "tests.methods.networks.Normed"
NORMED = {"class": NETWORK, "args": {"in_features": 30, "num_classes": 2}}
PLAIN = {
    "learning_rate": 0.05,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "local_epochs": 2,
    "batch_size": 16,
    "device": "cpu",
}
"""Plain gradient descent, which every method takes."""


def run_of(method: Any, **settings: Any) -> RunConfig:
    """Four rounds on the Wisconsin table, half of the sites in each."""
    return small(method, **{"training": PLAIN, "model": NORMED, "rounds": 4, "participation": 0.5, **settings})


def list_network(sites: Mapping[str, Path], more: str = "") -> dict[str, Path]:
    """The same sites, which now list the network of these runs; ``more`` is added to each site.yaml."""
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
