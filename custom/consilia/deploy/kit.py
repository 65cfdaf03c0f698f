"""A startup kit as NVFlare's provisioning makes it: whose it is, and where the server listens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from consilia.core.errors import ConfigError

FILES = {"server": "fed_server.json", "client": "fed_client.json", "admin": "fed_admin.json"}


@dataclass(frozen=True)
class Kit:
    """A startup kit.

    Attributes:
        folder: the kit's folder, which holds ``startup/`` and ``local/``.
        kind: of the participant.
        name: the participant's name in the federation; of an administrator, the user name.
        host: the server's host name.
        port: its TCP port.
    """

    folder: Path
    kind: Literal["server", "client", "admin"]
    name: str
    host: str
    port: int

    @property
    def local(self) -> Path:
        """The folder that belongs to the participant alone."""
        return self.folder / "local"


def open_kit(folder: Path) -> Kit:
    """Read a startup kit.

    Raises:
        ConfigError: the folder is no kit, or its startup file is damaged.
    """
    folder = Path(folder).absolute()
    for kind, file in FILES.items():
        path = folder / "startup" / file
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text())
            name, target = _who(kind, content, folder)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ConfigError(f"{path} is damaged ({type(error).__name__}: {error}): ask for the kit again") from error
        host, _, port = target.rpartition(":")
        return Kit(folder, kind, name, host, int(port))  # type: ignore[arg-type]
    raise ConfigError(
        f"{folder} is no startup kit: expected one of {sorted(FILES.values())} in {folder / 'startup'}. A kit is the "
        "folder that nvflare provision makes for one participant"
    )


def _who(kind: str, content: dict[str, Any], folder: Path) -> tuple[str, str]:
    if kind == "admin":
        admin = content["admin"]
        return admin["username"], f"{admin['host']}:{admin['port']}"
    server = content["servers"][0]
    # A server's kit does not say its own name otherwise than by its folder and its identity.
    name = content["client"]["fqsn"].rpartition(".")[2] if kind == "client" else server.get("identity", folder.name)
    return name, server["service"]["target"]
