"""The rules of the guard of messages, and that `install` and `doctor` know it."""

from __future__ import annotations

import pytest
from nvflare.fuel.f3.cellnet.core_cell import CoreCell

from consilia.deploy import message_guard
from consilia.deploy.doctor.policies import check_messages
from consilia.deploy.install.policies import MESSAGE_GUARD
from consilia.deploy.kit import Kit
from consilia.deploy.message_rules import (
    SERVER,
    Envelope,
    refused_anywhere,
    refused_at_server,
    refused_at_site,
    refused_command,
)
from consilia.flare.nvflare_internals import NETWORK_COMMANDS
from tests.deploy_units.kits import done, read, write

JOB = "0b7a1c1e-37a5-4d0b-8a5e-5d6b0b8f1c2d"
SITE, OTHER = "hospital-1", "hospital-2"
NEITHER = "it is neither of this site's server nor of this site"
ANOTHER_WAY = "it came over another connection than it says"


@pytest.mark.parametrize(
    ("me", "origin", "endpoint", "reason"),
    [
        (SITE, "server", "server", None),
        (SITE, f"server.{JOB}", "server", None),
        (SITE, f"{SITE}.{JOB}", f"{SITE}.{JOB}", None),
        (f"{SITE}.{JOB}", "server", SITE, None),
        (f"{SITE}.{JOB}", f"server.{JOB}", "server", None),
        (f"{SITE}.{JOB}", SITE, SITE, None),
        (SITE, OTHER, "server", NEITHER),
        (SITE, f"{OTHER}.{JOB}", OTHER, NEITHER),
        (SITE, "server_2", "server", NEITHER),
        (SITE, f"{SITE}0", "server", NEITHER),
        (f"{SITE}.{JOB}", OTHER, SITE, NEITHER),
        (SITE, "server", f"{SITE}.{JOB}", ANOTHER_WAY),
        (SITE, "server", OTHER, ANOTHER_WAY),
        (SITE, SITE, "server", ANOTHER_WAY),
        (SITE, f"{SITE}.{JOB}", "server", ANOTHER_WAY),
        (SITE, "server", "", ANOTHER_WAY),
        (f"{SITE}.{JOB}", "server", OTHER, ANOTHER_WAY),
    ],
)
def test_whom_a_site_listens_to(me: str, origin: str, endpoint: str, reason: str | None) -> None:
    assert refused_at_site(me, Envelope(origin, endpoint, me)) == reason


@pytest.mark.parametrize(
    ("me", "origin", "endpoint", "destination", "reason"),
    [
        ("server", SITE, SITE, "server", None),
        ("server", f"{SITE}.{JOB}", SITE, f"server.{JOB}", None),
        ("server", f"{SITE}.{JOB}", f"{SITE}.{JOB}", "server", None),
        ("server", f"server.{JOB}", f"server.{JOB}", SITE, None),
        ("server", "_admin_7", "_admin_7", "server", None),
        (f"server.{JOB}", f"{SITE}.{JOB}", "server", f"server.{JOB}", None),
        ("server", OTHER, OTHER, SITE, "participants send each other nothing"),
        ("server", "_admin_7", "_admin_7", SITE, "participants send each other nothing"),
        ("server", "server", OTHER, SITE, ANOTHER_WAY),
        ("server", SITE, OTHER, "server", ANOTHER_WAY),
        (f"server.{JOB}", f"{SITE}.{JOB}", OTHER, f"server.{JOB}", ANOTHER_WAY),
    ],
)
def test_what_the_server_takes_and_forwards(
    me: str, origin: str, endpoint: str, destination: str, reason: str | None
) -> None:
    assert refused_at_server(me, Envelope(origin, endpoint, destination)) == reason


@pytest.mark.parametrize(
    ("channel", "topic", "taken"),
    [
        ("server_command", "get_task", True),
        ("server_command", "submit_update", True),
        ("server_command", "abort", False),
        ("server_command", "show_stats", False),
        ("server_parent_listener", "get_clients", False),
        ("cellnet.channel", "bye", True),
        ("cellnet.channel", "bulk", False),
        ("aux_communication", "__sync_runner__", True),
    ],
)
def test_what_the_server_does_for_whoever_is_logged_in(channel: str, topic: str, taken: bool) -> None:
    to = f"server.{JOB}" if channel == "server_command" else "server"
    for origin in (SITE, "_admin_7"):
        assert (refused_at_server("server", Envelope(origin, origin, to, channel, topic)) is None) == taken
    assert refused_at_server("server", Envelope("server", "server", to, channel, topic)) is None


def test_nobody_takes_commands_to_nvflares_network_or_messages_of_another_job() -> None:
    assert refused_anywhere(Envelope("server", "server", SITE, NETWORK_COMMANDS, "stop")) is not None
    other = JOB.replace("0b7a", "1b7a")
    for sender, receiver in (("server", SITE), (SITE, "server")):
        assert refused_anywhere(Envelope(f"{sender}.{JOB}", sender, f"{receiver}.{JOB}")) is None
        assert refused_anywhere(Envelope(f"{sender}.{JOB}", sender, receiver)) is None
        assert refused_anywhere(Envelope(f"{sender}.{JOB}", sender, f"{receiver}.{other}")) == "it is of another job"


@pytest.mark.parametrize(
    ("origin", "topic", "job", "reason"),
    [
        ("server", "train.start_job", JOB, None),
        ("server", "train.check_status", None, None),
        (f"{SITE}.{JOB}", "train.notify_job_status", JOB, None),
        ("server", "sys.shell", None, "this command is never carried out"),
        (f"{SITE}.{JOB}", "train.shutdown", None, "commands come from the server itself"),
        (f"server.{JOB}", "train.shutdown", None, "commands come from the server itself"),
        (f"{OTHER}.{JOB}", "train.notify_job_status", JOB, "commands come from the server itself"),
        *[("server", "train.delete_run", job, "what it calls a job is none") for job in ("local", "", f"../{JOB}")],
    ],
)
def test_which_commands_a_site_carries_out(origin: str, topic: str, job: str | None, reason: str | None) -> None:
    assert refused_command(SITE, origin, topic, job) == reason


class Cell:
    """What a guard asks of NVFlare's end of all connections; ``done`` is what was done with it, in order."""

    def __init__(self, name: str) -> None:
        self.name, self.done = name, list[str]()

    def get_fqcn(self) -> str:
        return self.name

    def add_incoming_filter(self, channel: str, topic: str, *_: object) -> None:
        self.done.append(f"filter {channel} {topic}")

    def add_incoming_request_filter(self, channel: str, topic: str, *_: object) -> None:
        self.done.append(f"commands {channel} {topic}")


def test_of_two_guards_one_stands_and_before_the_process_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_guard, "is_participant", lambda: True)
    monkeypatch.setattr(message_guard, "shake_hands_apart", lambda note: None)
    monkeypatch.setattr(CoreCell, "start", lambda cell: cell.done.append("connects"))
    guards = [message_guard.MessageGuard(), message_guard.MessageGuard()]
    for name, expected in (
        (f"{SITE}.{JOB}", ["filter * *", "commands * *", "connects"]),
        (SERVER, ["filter * *", "connects"]),
    ):
        cell = Cell(name)
        CoreCell.start(cell)
        assert cell.done == expected
    assert len(guards) == 2


@pytest.mark.parametrize("kind", ["site", "server"])
def test_install_adds_the_guard_once_and_the_doctor_misses_it(request: pytest.FixtureRequest, kind: str) -> None:
    kit: Kit = request.getfixturevalue(kind)
    done(kit)
    done(kit)
    resources = read(kit, "resources.json")
    assert [item["path"] for item in resources["components"]].count(MESSAGE_GUARD) == 1
    assert check_messages(kit, resources).level == "ok"
    if kit.kind == "client":
        privacy = read(kit, "privacy.json")
        write(kit, "privacy.json", {**privacy, "components": []})
        assert "no guard in privacy.json" in check_messages(kit, resources).text
        write(kit, "privacy.json", privacy)
    resources["components"] = [item for item in resources["components"] if item["path"] != MESSAGE_GUARD]
    found = check_messages(kit, resources)
    assert found.level == "FAILED"
    assert "read files, at a site" in found.text
