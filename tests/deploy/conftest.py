"""Federations of real processes, each in its own folder, and none of them left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from consilia.data.federation import load_federation
from poc.local import LocalFederation
from poc.processes import processes_of

Start = Callable[..., LocalFederation]


@pytest.fixture
def three(tmp_path: Path) -> dict[str, Path]:
    """Three of the embedded hospitals."""
    return dict(list(load_federation("wisconsin", tmp_path / "sites").items())[:3])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Provision, install and start a federation: ``start(sites, jobs)``. It is stopped when the test ends."""
    started: list[LocalFederation] = []

    def begin(sites: dict[str, Path], jobs: list[Path], *, run: bool = True, **options: Any) -> LocalFederation:
        federation = LocalFederation(tmp_path / "federation", sites, **options)
        started.append(federation)
        federation.provision()
        federation.install(jobs)
        if run:
            federation.start()
        return federation

    yield begin
    for federation in started:
        federation.stop()
        assert processes_of(federation.folder) == []
