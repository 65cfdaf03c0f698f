"""Federations of real processes, each in its own folder, and none of them left behind."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from consilia.federation.config import RunConfig
from poc.local import LocalFederation
from poc.processes import processes_of
from tests.deploy.disks import small_disk
from tests.deploy.support import (
    SILENCE_SECONDS,
    Run,
    approve_everywhere,
    ask_again_after,
    export,
    running,
    state_of,
    submit,
    three_sites,
    two_sites,
)

Start = Callable[..., LocalFederation]

WITH_SMALL_DISKS = "hospital-3"
STATE_DISK, KIT_DISK = "4m", "8m"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a failed test, show what NVFlare's processes had to say: their folder may be gone when it is read."""
    report = yield
    if report.failed:
        given = getattr(item, "funcargs", {})
        folders = [given["tmp_path"] / "federation"] if "tmp_path" in given else []
        folders += [value.folder for value in given.values() if isinstance(value, LocalFederation)]
        for log in sorted(file for folder in folders for file in folder.glob("kits/*/console.log")):
            report.sections.append((f"{log.parent.name}: what is no INFO, and how jobs ended", told(log)))
    return report


def told(log: Path) -> str:
    kept = ("RC ", "return code", "Failing job")
    lines = log.read_text(errors="replace").splitlines()
    lines = [line for line in lines if " - INFO - " not in line or any(words in line for words in kept)]
    return "\n".join(line[:400] for line in lines[-40:])


@pytest.fixture
def two(tmp_path: Path) -> dict[str, Path]:
    """Two of the embedded hospitals, where a third would only cost time."""
    return two_sites(tmp_path / "sites")


@pytest.fixture
def three(tmp_path: Path) -> dict[str, Path]:
    """Three of the embedded hospitals."""
    return three_sites(tmp_path / "sites")


@pytest.fixture
def mounted() -> Iterator[list[Path]]:
    """Disks to unmount when nobody uses them any more: to be named before ``start``."""
    disks: list[Path] = []
    yield disks
    for disk in disks:
        subprocess.run(["umount", str(disk)], check=True)


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


@pytest.fixture(scope="package")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Two sites, started once for all tests of this folder that only submit jobs, each with a seed of its own."""
    folder = tmp_path_factory.mktemp("pair")
    with running(folder, two_sites(folder / "sites")) as federation:
        yield federation


@pytest.fixture(scope="module")
def disks() -> list[Path]:
    """The small disks that could be mounted."""
    return []


@pytest.fixture(scope="module")
def hard_days(tmp_path_factory: pytest.TempPathFactory, disks: list[Path]) -> Iterator[LocalFederation]:
    """Three sites; the kit and the state folder of the third are on small disks of their own, if that is permitted."""
    folder = tmp_path_factory.mktemp("hard-days")
    federation = LocalFederation(folder / "federation", three_sites(folder / "sites"))
    try:
        federation.provision()
        federation.install()
        ask_again_after(federation, SILENCE_SECONDS)
        kit = federation.kit(WITH_SMALL_DISKS).resolve()
        sizes = {state_of(federation, WITH_SMALL_DISKS): STATE_DISK, kit: KIT_DISK}
        disks += [disk for disk, size in sizes.items() if small_disk(disk, size)]
        federation.start()
        yield federation
    finally:
        federation.stop()
        for disk in disks:
            subprocess.run(["umount", str(disk)], check=True)
    assert processes_of(federation.folder) == []


@pytest.fixture
def begin(hard_days: LocalFederation, tmp_path: Path) -> Callable[..., Run]:
    """Export, approve and submit a job."""

    def submitted(config: RunConfig, name: str = "job") -> Run:
        job = export(config, tmp_path / "jobs", name, min_clients=2)
        approve_everywhere(hard_days, job)
        return submit(hard_days, job)

    return submitted
