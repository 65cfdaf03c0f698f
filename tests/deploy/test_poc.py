"""NVFlare's proof-of-concept mode: a provisioned federation that ``nvflare poc`` keeps, starts and stops."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from consilia.study.study import load_study, study_config
from poc.local import SERVER, SERVER_IS_UP, LocalFederation, logged
from poc.processes import end_all, processes_of
from tests.conftest import not_torchs
from tests.deploy.support import export, hashes, in_process, left_elsewhere, nvflare, submit, until

pytestmark = pytest.mark.deploy


@pytest.fixture
def prepared(two: dict[str, Path], tmp_path: Path) -> Iterator[LocalFederation]:
    """The startup kits of two hospitals, as ``nvflare poc prepare -i project.yml`` makes them."""
    federation = LocalFederation(tmp_path / "federation", two, server={"engine": "poc"})
    # Writes the project file, of which POC makes kits of its own.
    federation.provision()
    poc(federation, "prepare", "-i", str(federation.folder / "project.yml"))
    kits = federation.folder / "kits"
    kits.unlink()
    kits.symlink_to(workspace(federation) / "consilia" / "prod_00")
    yield federation
    end_all(federation.folder)


def workspace(federation: LocalFederation) -> Path:
    return federation.folder / "poc"


def poc(federation: LocalFederation, *arguments: str) -> str:
    temporary = federation.folder / "temporary"
    temporary.mkdir(exist_ok=True)
    own = {"NVFLARE_POC_WORKSPACE": str(workspace(federation)), "TMPDIR": str(temporary)}
    return nvflare(federation, "poc", *arguments, **own)


def test_poc_gives_the_same_bytes_and_leaves_nothing(prepared: LocalFederation, tmp_path: Path) -> None:
    config = study_config(load_study("wisconsin"), "fedkper", 0, {}, ["rounds=2"])
    job = export(config, tmp_path / "jobs")
    prepared.install([job])
    # Who logs in while the server starts may be refused for good, and NVFlare tries from the first second on.
    poc(prepared, "start", "-p", SERVER, "--no-wait")
    until(lambda: logged(prepared.server_kit, SERVER_IS_UP), "the server's start")
    poc(prepared, "start", *(word for name in prepared.sites for word in ("-p", name)), "--timeout", "120")
    run = submit(prepared, job)
    record = run.record()
    assert record.run.engine == "poc"
    assert hashes(record) == hashes(in_process(config, prepared.sites, tmp_path / "inprocess"))
    assert run.comes_to_its_end()
    # An installed site is stopped by its own people, not by the project's administrator over the network.
    poc(prepared, "stop", *(word for name in (*prepared.sites, SERVER) for word in ("-p", name)))
    assert processes_of(prepared.folder) == []
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", prepared.port))
    assert left_elsewhere(prepared.folder) == []
    assert not_torchs(prepared.folder / "temporary") == []
