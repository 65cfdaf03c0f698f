"""What others try at a site through NVFlare's own channels: nothing is read, changed or stopped.

Where a protection is taken away the same attacks succeed: that shows that they are real.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from consilia.deploy.doctor.modes import check_modes
from consilia.deploy.install.plan import COMMUNICATION
from consilia.deploy.session import open_session
from poc.local import ADMIN, LEAD, SERVER, LocalFederation
from poc.processes import processes_of
from tests.deploy import watcher
from tests.deploy.closed_doors import (
    CULPRIT,
    DELETE,
    JOB,
    NEIGHBOUR,
    STATUS,
    VICTIM,
    answers,
    as_local_user,
    as_stranger,
    attacks,
    harmless,
    inner_port,
    on_job,
    order,
    with_intruder,
)
from tests.deploy.intruder import carried_out
from tests.deploy.support import (
    Run,
    approve_everywhere,
    export,
    kill_participant,
    slow_config,
    state_of,
    submit,
    until,
)

pytestmark = pytest.mark.deploy

SEEN = frozenset(Path(__file__).with_name("messages_seen.txt").read_text().splitlines())
"""What NVFlare's processes take from whom: in training, resume, abort, download, console, restart and errors."""


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


@pytest.fixture(scope="module")
def attacked(federation: LocalFederation, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, str]]:
    """A job that has run while silent connections stood open and a hostile site gave orders, and their answers."""
    job = export(slow_config(31, "rounds=2"), tmp_path_factory.mktemp("jobs"), min_clients=3)
    approve_everywhere(federation, job)
    with ExitStack() as held:
        for name in (VICTIM, SERVER):
            held.enter_context(socket.create_connection(("localhost", inner_port(federation, name))))
        run = submit(federation, job)
        run.wait_for("prepared")
        order(federation, on_job(run.job_id))
        found = answers(federation)
        run.record()
    return run, found


def log_of(federation: LocalFederation, name: str) -> str:
    return (federation.kit(name) / "log.txt").read_text()


def unharmed(federation: LocalFederation, found: dict[str, str]) -> None:
    """None of the orders was carried out."""
    assert not [name for name, answer in found.items() if answer.startswith("ok")], found
    assert "PRIVATE KEY" not in json.dumps(found)
    assert (federation.kit(VICTIM) / "local" / "resources.json").is_file()
    for name in (VICTIM, SERVER):
        assert federation.participants[name].poll() is None


def test_another_hospital_reads_nothing_changes_nothing_and_stops_nothing(federation: LocalFederation) -> None:
    order(federation, attacks(federation.kit(VICTIM)))
    unharmed(federation, answers(federation))
    refused = re.findall(rf"refused: .* by {CULPRIT}, for (?:{VICTIM}|server): ", log_of(federation, SERVER))
    assert len(refused) == len(attacks(Path()))


def test_nothing_gets_through_while_a_site_starts(federation: LocalFederation) -> None:
    kill_participant(federation, VICTIM)
    order(federation, attacks(federation.kit(VICTIM)), seconds=12)
    federation.start_one(VICTIM)
    unharmed(federation, answers(federation))


def test_a_researchers_connection_commands_neither_site_nor_server(federation: LocalFederation) -> None:
    with open_session(federation.kit(LEAD)) as session:
        found = carried_out(session.flare.api.cell.core_cell, attacks(federation.kit(VICTIM)))
        unharmed(federation, found)
        assert VICTIM in session.connected()
    assert re.search(rf"refused: admin {DELETE}.* of _admin\S*, by _admin", log_of(federation, SERVER))


def test_a_stranger_without_a_certificate_is_told_nothing(federation: LocalFederation) -> None:
    assert as_stranger(federation) in ("b''", "SSLError", "ConnectionResetError")


def test_silent_connections_keep_no_job_out_and_another_hospital_ends_none(
    federation: LocalFederation, attacked: tuple[Run, dict[str, str]]
) -> None:
    run, found = attacked
    unharmed(federation, found)
    assert len(run.record().rounds) == 2
    log = log_of(federation, SERVER)
    assert f"refused: server_command abort of {CULPRIT}, by {CULPRIT}, for server.{run.job_id}: " in log
    assert f"for server.{run.job_id}: it is of another job" in log


def messages(federation: LocalFederation) -> set[str]:
    return watcher.lines(federation.folder / "kits", watcher.MESSAGES)


def without_topic(line: str) -> tuple[str, str, str]:
    process, channel, _, sender = line.split(" | ")
    return process, channel, sender


def test_a_federation_uses_the_messages_of_the_list_and_no_other(
    federation: LocalFederation, attacked: tuple[Run, dict[str, str]]
) -> None:
    """By channel and sender: of the topics some come now and then only."""
    seen, known = ({without_topic(line) for line in lines} for lines in (messages(federation), SEEN))
    assert len(seen) > 20
    assert sorted(seen - known) == []
    ours = [line for name in (SERVER, VICTIM, NEIGHBOUR) for line in log_of(federation, name).splitlines()]
    attackers = (CULPRIT, "by _admin", "a connection of", "by server.0b7a", f"by {NEIGHBOUR}.{JOB}")
    assert [line for line in ours if "refused: " in line and not any(word in line for word in attackers)] == []


def test_the_guard_stands_before_a_process_connects(
    federation: LocalFederation, attacked: tuple[Run, dict[str, str]]
) -> None:
    run, _ = attacked
    for name in (VICTIM, NEIGHBOUR, SERVER):
        for process in (name, f"{name}/{run.job_id}"):
            log = log_of(federation, process)
            stands, connects = log.index("the guard of messages stands before"), log.index(" is created: PID")
            assert stands < connects, process
    job = log_of(federation, f"{VICTIM}/{run.job_id}")
    assert job.count(f"the guard of messages stands before {VICTIM}.{run.job_id}") == job.count(
        "Worker_process started"
    )


def test_no_filter_stands_for_less_than_every_message(
    federation: LocalFederation, attacked: tuple[Run, dict[str, str]]
) -> None:
    """A filter for one channel would put NVFlare's authentication, which is for all of them, out of force for it."""
    found = watcher.lines(federation.folder / "kits", watcher.FILTERS)
    assert {line.split(" in_filter_reg")[0] for line in found if "in_filter_reg" in line} >= {"server", "site"}
    assert [line for line in found if not line.endswith(" *:*")] == []


@pytest.mark.parametrize("way", ["plain", "tls"])
@pytest.mark.parametrize("target", [VICTIM, SERVER])
def test_without_a_certificate_a_user_of_the_machine_gets_no_answer(
    federation: LocalFederation, target: str, way: str
) -> None:
    for name in ("server", f"{target}.{JOB}"):
        assert as_local_user(federation, target, way, name, STATUS).startswith("nothing: ")
    user = "nobody" if os.geteuid() == 0 else getpass.getuser()
    assert f"user {user}: it showed no certificate" in log_of(federation, target)


def test_where_the_processes_show_no_certificate_such_a_user_commands_as_the_server(
    federation: LocalFederation,
) -> None:
    """The real server has a connection of that name, too: now and then NVFlare closes the second one."""
    folder = federation.kit(NEIGHBOUR) / JOB
    folder.mkdir()

    def deleted() -> bool:
        as_local_user(federation, NEIGHBOUR, "plain", "server", DELETE, JOB)
        return not folder.exists()

    def told() -> bool:
        answer = as_local_user(federation, NEIGHBOUR, "plain", "server", STATUS)
        return f'"client_name": "{NEIGHBOUR}"' in answer

    until(deleted, "the folder's deletion", seconds=60)
    until(told, "the site's answer", seconds=60)


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


@pytest.mark.long
def test_a_site_that_is_guarded_needs_no_guarded_server(tmp_path: Path) -> None:
    federation = with_intruder(tmp_path, (VICTIM,))
    try:
        federation.start()
        at_site = {name: each for name, each in attacks(federation.kit(VICTIM)).items() if each["target"] == VICTIM}
        order(federation, at_site)
        unharmed(federation, answers(federation))
        assert f"sys.shell of {CULPRIT}, by server, for {VICTIM}" in log_of(federation, VICTIM)
        kill_participant(federation, VICTIM)
        order(federation, at_site, seconds=12)
        federation.start_one(VICTIM)
        unharmed(federation, answers(federation))
    finally:
        federation.stop()


def test_without_the_guard_a_hospital_reads_another_ones_private_key(tmp_path: Path) -> None:
    federation = with_intruder(tmp_path, ())
    try:
        federation.start()
        order(federation, harmless(federation.kit(VICTIM)))
        found = answers(federation)
        assert all(answer.startswith("ok") for answer in found.values()), found
        assert all("PRIVATE KEY" in answer for name, answer in found.items() if "shell" in name), found
    finally:
        federation.stop()
