"""Provision, install, start and stop a federation of real processes on this machine (mutual TLS on loopback)."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from consilia.core.errors import ConsiliaError, RunFailed
from consilia.data.site import server_data
from consilia.deploy.install.plan import install, plan_installation
from consilia.deploy.kit import Kit, open_kit
from consilia.deploy.release_filter import approve
from consilia.deploy.session import open_session
from poc.processes import MARK, end_all, start_guard

PROJECT = Path(__file__).with_name("project.yml")
SERVER, LEAD, ADMIN = "localhost", "lead@consortium.org", "admin@consortium.org"
OWN = ".consilia-federation"
"""Marks a folder that was made for a federation, and may be deleted with all that is in it."""

PORTS = range(20_000, 30_000)
"""Below those that the system hands out for connections, any of which may be taken before a server has started."""

PRIVATE = 0o077
"""The umask of what makes keys or runs with them."""

UP_SECONDS = 60
SERVER_IS_UP, SITE_IS_UP = "Server started", "Connected to server:"
"""In the logs of NVFlare's server and sites."""


# Processes that look at the same time should not find the same port.
_dice = random.Random(os.getpid())


def free_port() -> int:
    """A TCP port that nobody listens on at the moment.

    Raises:
        RunFailed: there is none.
    """
    for port in _dice.sample(PORTS, 1000):
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise RunFailed(f"no free TCP port was found between {PORTS.start} and {PORTS.stop - 1}")


def claim(folder: Path) -> None:
    """Make a folder for a federation, and mark it as one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OWN).touch()


def is_own(folder: Path) -> bool:
    """Whether a folder was made for a federation."""
    return (folder / OWN).is_file()


class LocalFederation:
    """A server and some sites, each a process of its own with its own startup kit.

    Args:
        folder: everything lies below here, also the home folder that NVFlare's tools write to, and temporary files.
        sites: each site's site.yaml.
        server: keys of the server's server.yaml.
        port: of the server; a free one by default.
        project: the project file, of which participants other than sites are kept.
        properties: further keys of participants in the project file, by name: ``connect_to`` of a site, say.
    """

    def __init__(
        self,
        folder: Path,
        sites: Mapping[str, Path],
        *,
        server: Mapping[str, Any] | None = None,
        port: int | None = None,
        project: Path = PROJECT,
        properties: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.folder, self.sites, self.project = folder.absolute(), dict(sorted(sites.items())), project
        self.port = port or free_port()
        data = server_data(sites)
        self.server = {**({"data": str(data)} if data else {}), **(server or {})}
        self.properties = properties or {}
        self.participants: dict[str, subprocess.Popen[bytes]] = {}
        self.environment: dict[str, dict[str, str]] = {}
        self.prefix: dict[str, list[str]] = {}
        """What comes before a participant's command, by name: where it is to run."""
        self._guard: subprocess.Popen[bytes] | None = None

    def kit(self, name: str) -> Path:
        """A participant's startup kit."""
        return self.folder / "kits" / name

    @property
    def server_kit(self) -> Path:
        """The server's startup kit."""
        return self.kit(SERVER)

    def kits(self) -> list[Kit]:
        """The kits of the server and the sites."""
        return [open_kit(self.kit(name)) for name in (SERVER, *self.sites)]

    def provision(self) -> None:
        """Make the startup kits."""
        project = yaml.safe_load(self.project.read_text())
        others = [item for item in project["participants"] if item["type"] != "client"]
        clients = [{"name": name, "type": "client", "org": name.replace("-", "_")} for name in self.sites]
        for item in others:
            if item["type"] == "server":
                item["fed_learn_port"] = self.port
        project["participants"] = [{**item, **self.properties.get(item["name"], {})} for item in (*others, *clients)]
        claim(self.folder)
        file = self.folder / "project.yml"
        file.write_text(yaml.safe_dump(project, sort_keys=False))
        command = [tool("nvflare"), "provision", "-p", str(file), "-w", str(self.folder / "provisioned"), "--force"]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, umask=PRIVATE)
        made = sorted((self.folder / "provisioned" / project["name"]).glob("prod_*"))
        if done.returncode or not made:
            raise RunFailed(f"nvflare provision failed: {done.stdout[-800:]}{done.stderr[-800:]}")
        (self.folder / "kits").symlink_to(made[-1].relative_to(self.folder))

    def install(self, jobs: Sequence[Path] = (), but: Sequence[str] = ()) -> None:
        """Install Consilia in every kit, as ``consilia site install`` and ``consilia site approve`` do.

        Args:
            jobs: to approve at the sites.
            but: participants that are left as they are.
        """
        settings = self.write_server_settings()
        for kit in self.kits():
            if kit.name in but:
                continue
            install(plan_installation(kit, settings if kit.kind == "server" else self.sites[kit.name]))
            if kit.kind == "client":
                for job in jobs:
                    approve(kit.folder, job)

    def write_server_settings(self) -> Path:
        """The server.yaml to install at the server."""
        path = self.folder / "server.yaml"
        path.write_text(yaml.safe_dump(self.server))
        return path

    def start(self) -> None:
        """Start the server and the sites, and wait until all sites are connected.

        Raises:
            RunFailed: they did not come up; names where their logs are.
        """
        self._guard = start_guard(self.folder)
        self.start_one(SERVER)
        for name in self.sites:
            self._launch(name)
        self.wait_for(self.sites)

    def start_one(self, name: str) -> None:
        """Start one participant, and wait until the server takes logins, or the site has logged in.

        NVFlare's server listens shortly before it has its own credentials. Who logs in just then is refused for good,
        and the server signs wrongly until it is restarted. And for minutes it counts a site as connected that is gone.

        Raises:
            RunFailed: it did not come up; names where its log is.
        """
        kit, words = self.kit(name), SERVER_IS_UP if name == SERVER else SITE_IS_UP
        before = logged(kit, words)
        self._launch(name)
        deadline = time.monotonic() + UP_SECONDS
        while logged(kit, words) == before:
            if time.monotonic() > deadline:
                raise RunFailed(f"{name} is not up after {UP_SECONDS} s: see {kit / 'log.txt'}")
            time.sleep(0.05)

    def _launch(self, name: str) -> None:
        with (self.kit(name) / "console.log").open("ab") as output:
            self.participants[name] = subprocess.Popen(
                [*self.prefix.get(name, []), str(self.kit(name) / "startup" / "sub_start.sh"), "--once"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self._environment(), **self.environment.get(name, {})},
                start_new_session=True,
                umask=PRIVATE,
            )

    def wait_for(self, sites: Sequence[str] | Mapping[str, Path]) -> None:
        """Wait until these sites are connected."""
        deadline = time.monotonic() + UP_SECONDS
        connected: set[str] = set()
        refused: ConsiliaError | None = None
        while time.monotonic() < deadline:
            try:
                with open_session(self.kit(ADMIN)) as session:
                    while time.monotonic() < deadline and not set(sites) <= connected:
                        connected = set(session.connected())
                        time.sleep(0.2)
            except ConsiliaError as error:  # not up yet
                refused = error
                time.sleep(0.3)
            if set(sites) <= connected:
                return
        missing = sorted(set(sites) - connected)
        logs = f"see console.log and log.txt in {self.kit('')}"
        raise RunFailed(f"{missing} not connected after {UP_SECONDS} s ({refused or 'the server answers'}): {logs}")

    def stop(self) -> None:
        """End every process of the federation."""
        end_all(self.folder)
        for process in self.participants.values():
            process.wait()
        self.participants.clear()
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait()
            self._guard = None

    def __enter__(self) -> LocalFederation:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _environment(self) -> dict[str, str]:
        home, temporary = self.folder / "home", self.folder / "temporary"
        for place in (home, temporary):
            place.mkdir(parents=True, exist_ok=True)
        return {
            **os.environ,
            MARK: str(self.folder),
            # NVFlare's tools keep a configuration there, and must not touch the user's.
            "HOME": str(home),
            # A process that is ended leaves its temporary files; NVFlare's server also those of jobs that it refuses.
            "TMPDIR": str(temporary),
            # The startup scripts take python3 from the path.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }


def logged(kit: Path, words: str) -> int:
    """How often a participant's log has these words."""
    log = kit / "log.txt"
    return log.read_text(errors="replace").count(words) if log.is_file() else 0


def tool(name: str) -> str:
    """A command beside this Python."""
    return str(Path(sys.executable).with_name(name))
