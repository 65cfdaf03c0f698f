"""The doctor's look at who on this machine can read a kit and the keys that it was made with.

Only everybody else's rights count: an owner and a group of their own are the site's way to share a kit.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from consilia.deploy.doctor.findings import Finding, failed, ok
from consilia.deploy.install.config import config_file
from consilia.deploy.kit import Kit

CHECK = "file modes"
CERTIFICATES = Path("state") / "cert.json"
"""In a workspace of ``nvflare provision``, beside the kits: the private keys of the root and of every participant."""


def check_modes(kit: Kit) -> Iterator[Finding]:
    """The kit, its site.yaml or server.yaml, and the keys of all participants where they are on this machine."""
    found = [*_kit(kit), *_provisioned(kit)]
    yield from found or [ok(CHECK, "nobody else can look into the kit")]


def _kit(kit: Kit) -> Iterator[Finding]:
    if not others(kit.folder):
        return
    yield failed(CHECK, f"others can look into {kit.folder} (mode {_mode(kit.folder):o})", f"chmod o-rwx {kit.folder}")
    config = config_file(kit)
    if config.is_file() and others(config):
        yield failed(CHECK, f"others can read {config} (mode {_mode(config):o})", f"chmod o-rwx {config}")


def _provisioned(kit: Kit) -> Iterator[Finding]:
    workspace = kit.folder.resolve().parents[1]
    keys = workspace / CERTIFICATES
    if keys.is_file() and _mode(keys) & 0o077 and others(keys.parent) and others(workspace):
        text = f"others can read {keys} (mode {_mode(keys):o}): the private keys of all participants"
        yield failed(CHECK, text, f"chmod -R go= {workspace}, and keep it off the participants' machines")


def others(path: Path) -> bool:
    """Whether a user who is neither the owner nor in the group has any right."""
    return bool(_mode(path) & stat.S_IRWXO)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
