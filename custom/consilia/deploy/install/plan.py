"""``consilia site install``: merge what Consilia needs into a kit's local/ folder, show it, and be able to undo it.

What was there before, and what was written, is kept in ``local/.consilia/``, which nobody sends: a file that was
edited by hand after the installation is never overwritten by an undo.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consilia.core.errors import ConfigError
from consilia.core.files import write_bytes, write_json
from consilia.deploy.install.config import config_file, moved_config
from consilia.deploy.install.policies import (
    Json,
    Merged,
    merged_authorization,
    merged_communication,
    merged_privacy,
    merged_resources,
    merged_server_authorization,
    merged_server_resources,
)
from consilia.deploy.kit import Kit

RESOURCES, PRIVACY, AUTHORIZATION = "resources.json", "privacy.json", "authorization.json"
COMMUNICATION = "comm_config.json"
NOT_PROVISIONED = (PRIVACY, COMMUNICATION)
"""Policies that a kit need not have: without one NVFlare does as it does by itself."""
RECORD = Path(".consilia") / "installed.json"
STORAGE = "storage"
SHARED_MODE = 0o644


@dataclass(frozen=True)
class Change:
    """A file of local/ and its new content.

    Attributes:
        path: the file.
        before: its bytes, or None where it is new.
        after: its new bytes.
        mode: permission bits of the new file.
        diff: what changes, for people: JSON is compared as data, and a new file with the default that it replaces.
    """

    path: Path
    before: bytes | None
    after: bytes
    mode: int
    diff: str


@dataclass(frozen=True)
class Plan:
    """What an installation will do to a kit, and what its people should know."""

    kit: Kit
    changes: tuple[Change, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Undone:
    """Files of local/ that an undo has put back, removed, or kept because they were edited by hand since."""

    restored: tuple[Path, ...]
    removed: tuple[Path, ...]
    edited: tuple[Path, ...]


def plan_installation(kit: Kit, config: Path | None = None) -> Plan:
    """Work out what an installation changes. Nothing is written.

    Args:
        kit: of a site or of the server.
        config: the site.yaml or server.yaml to install.

    Raises:
        ConfigError: an administrator's kit; a file of the kit that is not what NVFlare expects; a config that is not
            the kit's, or that would overwrite one which somebody wrote there.
    """
    if kit.kind == "admin":
        raise ConfigError(f"{kit.folder} is an administrator's kit: only sites and the server are installed")
    changes, notes = _policies(kit)
    target = config_file(kit)
    if config is not None:
        content = moved_config(kit, config)
        before = target.read_bytes() if target.is_file() else None
        if before not in (None, content) and _digest(before) != _recorded(kit).get(target.name, {}).get("after"):
            raise ConfigError(f"{target} is there already and differs from {config}: edit it, or move it away")
        mode = _mode(target if before is not None else config) & ~stat.S_IRWXO
        lines = ("" if before is None else before.decode(), content.decode())
        changes.insert(0, Change(target, before, content, mode, _diff(target.name, target.name, *lines)))
    elif kit.kind == "client" and not target.is_file():
        notes.append(f"there is no {target} yet: write one, and install it with --config")
    return Plan(kit, tuple(change for change in changes if change.before != change.after), tuple(notes))


def install(plan: Plan) -> None:
    """Carry a plan out. Each file is replaced at once, and what was there is kept first.

    Raises:
        ConfigError: root would write outside local/, where a link leads.
    """
    _stay_inside(plan.kit, [change.path.name for change in plan.changes])
    record = _recorded(plan.kit)
    for change in plan.changes:
        record[change.path.name] = _entry(record.get(change.path.name), change)
    if plan.changes:
        # Before the files: an installation that is cut short can be undone, too.
        write_json(plan.kit.local / RECORD, record, private=True)
    for change in plan.changes:
        _write(change.path, change.after, change.mode)


def uninstall(kit: Kit) -> Undone:
    """Put back what was in local/ before the first installation.

    Raises:
        ConfigError: nothing was installed here, or root would write outside local/, where a link leads.
    """
    record = _recorded(kit)
    if not record:
        raise ConfigError(f"{kit.local}: nothing of Consilia was installed here, so there is nothing to undo")
    _stay_inside(kit, record)
    restored, removed, edited = [], [], []
    for name, entry in sorted(record.items()):
        path = kit.local / name
        there = path.read_bytes() if path.is_file() else None
        before = _first(entry)
        if there == before:
            continue
        if entry["edited"] or not _ours(there, entry):
            edited.append(path)
        elif before is None:
            path.unlink()
            removed.append(path)
        else:
            _write(path, before, entry["mode"])
            restored.append(path)
    (kit.local / RECORD).unlink()
    (kit.local / RECORD).parent.rmdir()
    return Undone(tuple(restored), tuple(removed), tuple(edited))


def read_policy(path: Path) -> Json:
    """A JSON object of local/. Raises :class:`ConfigError` naming the file and what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def in_force(kit: Kit, name: str) -> Path:
    """The file that NVFlare reads: the site's own, else the default, which it does not merge with it."""
    own, default = kit.local / name, kit.local / f"{name}.default"
    if own.is_file() or default.is_file():
        return own if own.is_file() else default
    raise ConfigError(f"{kit.local} has neither {own.name} nor {default.name}: ask for the kit again")


def _policies(kit: Kit) -> tuple[list[Change], list[str]]:
    changes, notes = [], []
    for name, merge in _merges(kit).items():
        source = kit.local / name if name in NOT_PROVISIONED else in_force(kit, name)
        before = read_policy(source) if source.is_file() else None
        own = source.name == name and before is not None
        try:
            after, remarks = merge(before or {}, own)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error
        notes += [f"{name}: {note}" for note in remarks]
        if not own or after != before:
            changes.append(_policy_change(kit.local / name, source, before or {}, after))
    return changes, notes


def _merges(kit: Kit) -> dict[str, Callable[[Json, bool], Merged]]:
    """How each policy of a kit is merged, from its content and whether that is the participant's own."""
    if kit.kind == "client":
        return {
            RESOURCES: lambda before, own: merged_resources(before, own=own),
            PRIVACY: lambda before, own: merged_privacy(before),
            AUTHORIZATION: lambda before, own: merged_authorization(before),
            COMMUNICATION: lambda before, own: merged_communication(before),
        }
    default = kit.local / f"{RESOURCES}.default"
    usual = read_policy(default) if default.is_file() else {}
    return {
        RESOURCES: lambda before, own: merged_server_resources(before, usual, kit.folder / STORAGE, own=own),
        AUTHORIZATION: lambda before, own: merged_server_authorization(before),
        COMMUNICATION: lambda before, own: merged_communication(before),
    }


def _policy_change(target: Path, source: Path, before: Json, after: Json) -> Change:
    there = target.read_bytes() if target.is_file() else None
    # As data: NVFlare's own defaults are laid out in several ways, which would hide what changes.
    diff = _diff(source.name, target.name, _text(before) if before else "", _text(after))
    mode = _mode(source) if source.is_file() else SHARED_MODE
    return Change(target, there, _text(after).encode(), mode, diff)


def _text(content: Json) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _diff(old: str, new: str, before: str, after: str) -> str:
    lines = (before.splitlines(), after.splitlines())
    return "\n".join(difflib.unified_diff(*lines, fromfile=f"local/{old}", tofile=f"local/{new}", lineterm=""))


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _recorded(kit: Kit) -> dict[str, Any]:
    path = kit.local / RECORD
    return read_policy(path) if path.is_file() else {}


def _entry(earlier: dict[str, Any] | None, change: Change) -> dict[str, Any]:
    """What an undo must know of a file; of one that was installed before, what was there before that."""
    there = change.before
    if earlier is None:
        mode = None if there is None else _mode(change.path)
        earlier = {"before": None if there is None else there.hex(), "mode": mode, "edited": False}
    elif not _ours(there, earlier):
        earlier = {**earlier, "edited": True}
    return {**earlier, "after": _digest(change.after)}


def _ours(there: bytes | None, entry: dict[str, Any]) -> bool:
    """Whether a file is as it was before the installation, which may have been cut short, or as that has left it."""
    return there == _first(entry) or (there is not None and _digest(there) == entry["after"])


def _first(entry: dict[str, Any]) -> bytes | None:
    """What was there before the first installation."""
    return None if entry["before"] is None else bytes.fromhex(entry["before"])


def _stay_inside(kit: Kit, names: Iterable[str]) -> None:
    """Who may write to local/ could otherwise have root write anywhere, and give it to them."""
    if os.geteuid() != 0:
        return
    inside = kit.local.resolve()
    for path in (kit.local / name for name in (*names, str(RECORD))):
        if not path.resolve().is_relative_to(inside):
            raise ConfigError(f"{path} leads to {path.resolve()}, outside {inside}: root does not write there")


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file; at no moment is it open to more people than ``mode`` says."""
    target = path.resolve()
    write_bytes(target, content, private=True)
    hand_over(target, mode)


def hand_over(path: Path, mode: int) -> None:
    """Give what root has written to the owner of the folder that it is in, and everybody the rights of ``mode``."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
    path.chmod(mode)
