"""A federation in which one site is hostile, and what it and others try."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from consilia.core.files import write_json
from consilia.deploy.install.policies import GUARDS
from consilia.flare.nvflare_internals import NETWORK_COMMANDS
from poc.local import SERVER, LocalFederation
from tests.deploy import intruder, local_user, watcher
from tests.deploy.intruder import Orders
from tests.deploy.support import three_sites, until

VICTIM, NEIGHBOUR, CULPRIT = "hospital-1", "hospital-2", "hospital-3"
JOB = "0b7a1c1e-37a5-4d0b-8a5e-5d6b0b8f1c2d"
SHELL, STATUS, DELETE = "sys.shell", "train.check_status", "train.delete_run"
JOBS_ONLY = "server_parent_listener"
"""NVFlare's channel for what the server's own jobs say to the server."""


def harmless(kit: Path) -> Orders:
    """Orders that change nothing, but for what they would give away; what is to be read lies in the victim's kit."""
    read = f"head {kit / 'startup' / 'client.key'}"
    return {
        "a shell command": {"target": VICTIM, "topic": SHELL, "body": read},
        "a shell command under another topic": {"target": VICTIM, "topic": STATUS, "command": SHELL, "body": read},
        "a harmless command": {"target": VICTIM, "topic": STATUS},
        "the settings of its processes": {"target": VICTIM, "channel": NETWORK_COMMANDS, "topic": "config_vars"},
        "the server's processes": {"target": "server", "channel": NETWORK_COMMANDS, "topic": "process_info"},
        "the logins of a job's sites": {"target": "server", "channel": JOBS_ONLY, "topic": "get_clients"},
    }


def attacks(kit: Path) -> Orders:
    """Those, and orders that would delete, stop or change."""
    deletion: dict[str, str] = {"target": VICTIM, "topic": DELETE, "job_id": "local"}
    shutdown: dict[str, str] = {"target": VICTIM, "topic": "train.shutdown"}
    return {
        **harmless(kit),
        "deletion of local/": deletion,
        "deletion in the server's name": {**deletion, "origin": "server"},
        "a job's deployment": {"target": VICTIM, "topic": "train.deploy", "job_id": JOB},
        "a shutdown": shutdown,
        "a shutdown in the server's name": {**shutdown, "origin": "server"},
        "a shutdown in the victim's own name": {**shutdown, "origin": VICTIM},
        "the end of its connections": {"target": VICTIM, "channel": NETWORK_COMMANDS, "topic": "stop_cell"},
        "the end of the server's connections": {"target": "server", "channel": NETWORK_COMMANDS, "topic": "stop_cell"},
    }


def on_job(job: str) -> Orders:
    """What would end a running job, or is of another job."""
    ending = {"target": f"server.{job}", "channel": "server_command", "topic": "abort"}
    return {
        "the job's end": ending,
        "the job's end in the name of another job": {**ending, "origin": f"{CULPRIT}.{JOB}"},
        "a result of another job": {**ending, "topic": "submit_update", "origin": f"{CULPRIT}.{JOB}"},
        "the end of the victim's part": {"target": f"{VICTIM}.{job}", "channel": "client_command", "topic": "abort"},
    }


def with_intruder(folder: Path, guarded: tuple[str, ...]) -> LocalFederation:
    """An installed federation whose third site is hostile, with guards at some participants only."""
    federation = LocalFederation(folder / "federation", three_sites(folder / "sites"))
    federation.provision()
    federation.install()
    ours = {path for paths in GUARDS.values() for path in paths}
    for name in (SERVER, *federation.sites):
        own = intruder if name == CULPRIT else watcher
        custom = federation.kit(name) / "local" / "custom"
        custom.mkdir(exist_ok=True)
        shutil.copy(own.__file__, custom)
        path = "intruder.Intruder" if name == CULPRIT else "watcher.Watcher"
        without = name == CULPRIT or name in {SERVER, VICTIM}.difference(guarded)

        def changed(listed: list[dict[str, Any]], path: str = path, without: bool = without) -> list[dict[str, Any]]:
            kept = [item for item in listed if not (without and item["path"] in ours)]
            return [*kept, {"id": "own", "path": path}]

        change(federation.kit(name), changed)
    return federation


def change(kit: Path, components: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Change the components of a kit's own process and of its jobs."""
    for file in (kit / "local" / "resources.json", kit / "local" / "privacy.json"):
        if file.is_file():
            content = json.loads(file.read_text())
            content["components"] = components(content.get("components", []))
            write_json(file, content)


def order(federation: LocalFederation, orders: Orders, seconds: float = 0) -> None:
    """Have the hostile site give orders, once or over and over."""
    kit = federation.kit(CULPRIT)
    part = kit / f"{intruder.ORDERS}.part"
    part.write_text(json.dumps({"orders": orders, "seconds": seconds}))
    part.rename(kit / intruder.ORDERS)


def answers(federation: LocalFederation) -> dict[str, str]:
    """What came back for each order."""
    file = federation.kit(CULPRIT) / intruder.ANSWERS
    until(file.is_file, "the intruder's answers")
    found: dict[str, str] = json.loads(file.read_text())
    file.unlink()
    return found


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


def as_local_user(federation: LocalFederation, target: str, way: str, name: str, *words: str) -> str:
    """What a user of the target's machine is answered who connects as the process ``name`` and gives an order."""
    port = inner_port(federation, target)
    command = [sys.executable, local_user.__file__, str(port), way, name, target, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def as_stranger(federation: LocalFederation) -> str:
    """How the server ends the connection of somebody who has no certificate, and begins as gRPC does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection(("localhost", federation.port), timeout=10) as plain,
            context.wrap_socket(plain) as connection,
        ):
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            return repr(connection.recv(100))
    except OSError as error:
        return type(error).__name__
