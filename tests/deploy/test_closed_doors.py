"""What others try at a site through NVFlare's own channels: nothing is read, changed or stopped.

Where a protection is taken away the same attacks succeed: that shows that they are real.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from consilia.core.files import write_json
from consilia.deploy.doctor.modes import check_modes
from consilia.deploy.install.plan import COMMUNICATION
from consilia.deploy.install.policies import GUARDS
from consilia.deploy.session import open_session
from poc.local import ADMIN, SERVER, LocalFederation
from poc.processes import processes_of
from tests.deploy import intruder, local_user
from tests.deploy.support import approve_everywhere, export, slow_config, state_of, submit, three_sites, until

pytestmark = pytest.mark.deploy

VICTIM, NEIGHBOUR, CULPRIT = "hospital-1", "hospital-2", "hospital-3"
JOB = "0b7a1c1e-37a5-4d0b-8a5e-5d6b0b8f1c2d"
SHELL, STATUS, DELETE = "sys.shell", "train.check_status", "train.delete_run"


def attacks(kit: Path) -> dict[str, dict[str, str]]:
    """Orders by name; what is to be read and deleted lies in the victim's kit."""
    read = f"head {kit / 'startup' / 'client.key'}"
    return {
        "a shell command": {"target": VICTIM, "topic": SHELL, "body": read},
        "a shell command under another topic": {"target": VICTIM, "topic": STATUS, "command": SHELL, "body": read},
        "a harmless command": {"target": VICTIM, "topic": STATUS},
        "deletion of local/": {"target": VICTIM, "topic": DELETE, "job_id": "local"},
        "deletion in the server's name": {"target": VICTIM, "topic": DELETE, "job_id": "local", "origin": "server"},
        "a shutdown": {"target": VICTIM, "topic": "train.shutdown"},
        "a shutdown in the server's name": {"target": VICTIM, "topic": "train.shutdown", "origin": "server"},
        "a shutdown in the victim's own name": {"target": VICTIM, "topic": "train.shutdown", "origin": VICTIM},
    }


def with_intruder(folder: Path, guarded: tuple[str, ...]) -> LocalFederation:
    """An installed federation whose third site is hostile, with guards at some participants only."""
    federation = LocalFederation(folder / "federation", three_sites(folder / "sites"))
    federation.provision()
    federation.install()
    kit = federation.kit(CULPRIT)
    custom = kit / "local" / "custom"
    custom.mkdir(exist_ok=True)
    shutil.copy(intruder.__file__, custom)
    ours = {path for paths in GUARDS.values() for path in paths}
    own = {"id": "intruder", "path": "intruder.Intruder"}
    change(kit, lambda listed: [*(item for item in listed if item["path"] not in ours), own])
    for name in {SERVER, VICTIM}.difference(guarded):
        change(federation.kit(name), lambda listed: [item for item in listed if item["path"] not in ours])
    return federation


def change(kit: Path, components: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Change the components of a kit's resources.json."""
    file = kit / "local" / "resources.json"
    resources = json.loads(file.read_text())
    resources["components"] = components(resources.get("components", []))
    write_json(file, resources)


def ordered(federation: LocalFederation, orders: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What came back for each order."""
    kit = federation.kit(CULPRIT)
    part = kit / f"{intruder.ORDERS}.part"
    part.write_text(json.dumps(orders))
    part.rename(kit / intruder.ORDERS)
    answers = kit / intruder.ANSWERS
    until(answers.is_file, "the intruder's answers")
    found: dict[str, str] = json.loads(answers.read_text())
    answers.unlink()
    return found


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """The guards stand; one site lacks what install writes about connections within a machine."""
    federation = with_intruder(tmp_path_factory.mktemp("closed"), (SERVER, VICTIM))
    (federation.kit(NEIGHBOUR) / "local" / COMMUNICATION).unlink()
    try:
        federation.start()
        yield federation
    finally:
        federation.stop()
    assert processes_of(federation.folder) == []


def holds(federation: LocalFederation) -> None:
    """Carry out the attacks, and see that none has done anything."""
    kit = federation.kit(VICTIM)
    answers = ordered(federation, attacks(kit))
    assert not [name for name, answer in answers.items() if answer.startswith("ok")], answers
    assert "PRIVATE KEY" not in json.dumps(answers)
    assert (kit / "local" / "resources.json").is_file()
    assert federation.participants[VICTIM].poll() is None


def test_another_hospital_reads_nothing_changes_nothing_and_stops_nothing(federation: LocalFederation) -> None:
    holds(federation)
    log = (federation.server_kit / "log.txt").read_text()
    # NVFlare's own authentication refuses the three in another's name, before the guard looks at them.
    assert log.count(f"of {CULPRIT}, by {CULPRIT}, for {VICTIM}: participants send each other nothing") == 5


def inner_port(federation: LocalFederation, name: str) -> int:
    """Where a participant's own process listens to those of its jobs."""
    process = psutil.Process(federation.participants[name].pid)
    listening = {
        connection.laddr.port
        for each in (process, *process.children(recursive=True))
        for connection in each.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    (port,) = listening - {federation.port}
    return port


def as_local_user(federation: LocalFederation, target: str, way: str, name: str, *order: str) -> str:
    """What a user of the target's machine is answered who connects as the process ``name`` and gives an order."""
    port = inner_port(federation, target)
    command = [sys.executable, local_user.__file__, str(port), way, name, target, *order]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("way", ["plain", "tls"])
@pytest.mark.parametrize("target", [VICTIM, SERVER])
def test_without_a_certificate_a_user_of_the_machine_gets_no_answer(
    federation: LocalFederation, target: str, way: str
) -> None:
    for name in ("server", f"{target}.{JOB}"):
        assert as_local_user(federation, target, way, name, STATUS).startswith("nothing: ")
    log = (federation.kit(target) / "log.txt").read_text()
    assert f"user {'nobody' if os.geteuid() == 0 else getpass.getuser()}: it showed no certificate" in log


def test_who_connects_inside_and_says_nothing_keeps_no_job_out(federation: LocalFederation, tmp_path: Path) -> None:
    job = export(slow_config(31, "rounds=1"), tmp_path, min_clients=2)
    approve_everywhere(federation, job)
    with ExitStack() as held:
        for name in (VICTIM, SERVER):
            held.enter_context(socket.create_connection(("localhost", inner_port(federation, name))))
        submit(federation, job).record()


def test_no_other_user_can_look_into_a_kit_or_what_a_site_keeps(federation: LocalFederation) -> None:
    for kit in federation.kits():
        assert [finding.level for finding in check_modes(kit)] == ["ok"]
    keys = [*(federation.folder / "provisioned").rglob("cert.json"), *(federation.folder / "kits").glob("*/*/*.key")]
    states = [state_of(federation, VICTIM), federation.server_kit]
    assert len(keys) > 3
    assert [path for path in (*keys, *states) if path.stat().st_mode & 0o077] == []


def test_fifty_connections_that_say_nothing_delay_no_login(federation: LocalFederation) -> None:
    """Seconds of a login, the better of two."""

    def login() -> float:
        began = time.monotonic()
        with open_session(federation.kit(ADMIN)) as session:
            session.connected()
        return time.monotonic() - began

    before = min(login(), login())
    with ExitStack() as held:
        for _ in range(50):
            held.enter_context(socket.create_connection(("localhost", federation.port)))
        among = min(login(), login())
    print(f"a login took {before:.2f} s, among 50 silent connections {among:.2f} s")
    assert among < before + 1


def test_where_the_processes_show_no_certificate_such_a_user_commands_as_the_server(
    federation: LocalFederation,
) -> None:
    folder = federation.kit(NEIGHBOUR) / JOB
    folder.mkdir()
    assert f'"client_name": "{NEIGHBOUR}"' in as_local_user(federation, NEIGHBOUR, "plain", "server", STATUS)
    answer = as_local_user(federation, NEIGHBOUR, "plain", "server", DELETE, JOB)
    assert not folder.exists(), answer


@pytest.mark.long
def test_a_site_that_is_guarded_needs_no_guarded_server(tmp_path: Path) -> None:
    federation = with_intruder(tmp_path, (VICTIM,))
    try:
        federation.start()
        holds(federation)
        assert f"sys.shell of {CULPRIT}, by server, for {VICTIM}" in (federation.kit(VICTIM) / "log.txt").read_text()
    finally:
        federation.stop()


def test_without_the_guard_a_hospital_reads_another_ones_private_key(tmp_path: Path) -> None:
    federation = with_intruder(tmp_path, ())
    try:
        federation.start()
        shells = {name: order for name, order in attacks(federation.kit(VICTIM)).items() if "shell" in name}
        answers = ordered(federation, shells)
        assert all("PRIVATE KEY" in answer for answer in answers.values()), answers
    finally:
        federation.stop()
