"""Shared fixtures, the order of the tests, and which of them may run again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

REPOSITORY = Path(__file__).parents[1]


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test that is marked ``nvflare_race`` runs once more when it fails; no other does."""
    race = item.get_closest_marker("nvflare_race")
    if race is not None:
        if not race.kwargs.get("reason"):
            raise pytest.UsageError(f"{item.nodeid}: nvflare_race needs a reason")
        item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with real processes come first: a file of them at the end would keep one worker busy alone."""
    ranks = ("deploy", "sim")
    items.sort(key=lambda item: next((at for at, mark in enumerate(ranks) if item.get_closest_marker(mark)), 2))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real datasets: CONSILIA_DATA, or ../shared/data beside the checkout."""
    root = Path(os.environ.get("CONSILIA_DATA") or REPOSITORY.parent / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"real data not found at {root}: set CONSILIA_DATA to the folder that holds them")
    return root


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Path]]:
    """``load_federation`` for the embedded phantoms; the images, which take seconds, are drawn once for all workers."""
    from consilia.simulation.federation import load_federation

    base = tmp_path_factory.getbasetemp()
    drawn = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "phantoms-drawn"
    drawn.mkdir(exist_ok=True)

    def load(name: str, folder: Path, **options: Any) -> dict[str, Path]:
        with FileLock(drawn / f"{name}.lock"):
            load_federation(name, drawn / name)
        # Images that are there are not drawn again.
        shutil.copytree(drawn / name, folder, dirs_exist_ok=True)
        return load_federation(name, folder, **options)

    return load


@pytest.fixture
def wisconsin(tmp_path: Path) -> dict[str, Path]:
    """The embedded four hospitals, fresh: site.yaml by site name."""
    from consilia.simulation.federation import load_federation

    return load_federation("wisconsin", tmp_path / "sites")


def not_torchs(temporary: Path) -> list[Path]:
    """What is left in a folder for temporary files, but for the cache folder that importing torch makes."""
    return [path for path in temporary.iterdir() if not path.name.startswith("torchinductor_")]
