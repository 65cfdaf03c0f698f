"""The site's own gate: only what its hospital has approved is done and leaves, and every message is written down.

A job says in its manifest what its sites are asked to do and what they send
(:mod:`consilia.federation.release_manifest`); the site approves a manifest by keeping the same one in its kit's
``local/approved/``. The filter stands in its ``local/privacy.json``, in every scope, out of the submitter's reach.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nvflare.apis.dxo import DataKind
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReservedHeaderKey, Shareable

from consilia.core.errors import ConfigError, ReleaseRefused
from consilia.core.files import write_json
from consilia.core.plain import one_line
from consilia.core.reading import read_json
from consilia.data.site import load_site_config, own_site_file
from consilia.deploy.foreign import MAX_FOREIGN, foreign_parts, job_files
from consilia.deploy.install.config import config_file
from consilia.deploy.install.plan import SHARED_MODE, hand_over
from consilia.deploy.kit import Kit, open_kit
from consilia.federation.messages import Reply, payload_bytes
from consilia.federation.release_manifest import MAX_CONFIG_BYTES, Manifest, as_manifest, checked_job, read_manifest
from consilia.federation.site_ledger import close_ledger
from consilia.flare.approval import ApprovalFilter
from consilia.flare.messages import CONTENT, ERROR, reply_to_dxo
from consilia.methods.registry import AllowedMethods

AUDIT = "releases.jsonl"
"""In the kit: one line of JSON for every message, sent or refused."""

APPROVED = "approved"
"""In the kit's ``local/``: the approved manifests."""

DXO_KEY = "DXO"
HEADERS, RC, CONTENT_TYPE = ReservedHeaderKey.HEADERS, ReservedHeaderKey.RC, ReservedHeaderKey.CONTENT_TYPE
CODES = frozenset(value for name, value in vars(ReturnCode).items() if name.isupper())
MAX_REASON = 500


class ReleaseFilter(ApprovalFilter):
    """Lets a job work if the site has approved its manifest, and passes a result that holds nothing else.

    The executor asks it before each task; a job whose executor does not ask sends nothing. Of a refused result nothing
    is sent but the error ``ReleaseRefused``; the reason is in ``<kit>/releases.jsonl`` and in the site's log, and names
    settings, tensors and fields, never values of a result. What cannot be written down is not sent either. An approval
    that is withdrawn counts from the next message on. Jobs without a manifest, of other applications say, are refused.

    What it cannot do: it sees the results of tasks, as the executor hands them over. NVFlare adds its own headers
    afterwards (names of task and job, ids of audit events), and filters of the job itself run later: the allow-list
    keeps those out, as it does components that send events. Code that a job brings along (BYOC) runs in the same
    process and can open a connection of its own: against it only the right to refuse such jobs helps, and a firewall.
    Nor does the filter read numbers: what a model has learnt of the cases it was trained on travels with its tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self._manifests: dict[str, Manifest] = {}
        self._shown: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        self._reasons: dict[str, str] = {}

    def require_approved(self, settings: dict[str, Any], manifest: dict[str, Any], fl_ctx: FLContext) -> None:
        """See :class:`ApprovalFilter`."""
        job, local = str(fl_ctx.get_job_id()), Path(fl_ctx.get_engine().get_workspace().get_site_config_dir())
        if self._shown.setdefault(job, (settings, manifest)) != (settings, manifest):
            raise ReleaseRefused("a second executor of this job has another configuration")
        if job not in self._manifests:
            try:
                allowed = _allowed(local, fl_ctx.get_identity_name())
                self._manifests[job] = checked_job(settings, manifest, "this job", allowed)[0]
            # Whatever a job brings that the check did not foresee: what cannot be checked is not done.
            except Exception as error:
                foreseen = isinstance(error, ConfigError)
                reason = str(error) if foreseen else f"the job cannot be checked ({type(error).__name__})"
                self._reasons[job] = reason
                raise ReleaseRefused(reason) from error
        require_approval(local, self._manifests[job])

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """The result itself, or the error that stands for it. Never raises."""
        workspace = fl_ctx.get_engine().get_workspace()
        job, task = str(fl_ctx.get_job_id()), str(fl_ctx.get_prop(FLContextKey.TASK_NAME))
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "job": job, "task": task}
        reason = ""
        try:
            line |= self._checked(shareable, task, job, Path(workspace.get_site_config_dir()))
        except (ReleaseRefused, ConfigError) as error:
            reason = one_line(error, MAX_REASON)
        # A message that the check did not foresee is not sent; the error's text might quote it.
        except Exception as error:
            reason = f"the result cannot be checked ({type(error).__name__})"
        try:
            _append(Path(workspace.get_root_dir()) / AUDIT, line if not reason else line | _refusal(reason))
        except OSError as error:
            reason = f"{reason}; " if reason else ""
            reason += f"{AUDIT} cannot be written ({error.strerror}), and what is not written down is not sent"
        if not reason:
            return shareable
        self.log_error(fl_ctx, f"nothing is sent for task {task}: {reason}")
        refused: Shareable = reply_to_dxo(Reply(error=ReleaseRefused.__name__)).to_shareable()
        return refused

    def _checked(self, shareable: Shareable, task: str, job: str, local: Path) -> dict[str, Any]:
        """What the audit says of a result that may leave; raises ReleaseRefused or ConfigError for any other."""
        headers = shareable.get(HEADERS)
        # NVFlare's way to say that there is no result: a code, and nothing with it.
        if set(shareable) == {HEADERS} and set(headers) == {RC} and headers[RC] in CODES:
            return {"sent": True, "code": headers[RC], "bytes": 0, "tensors": 0, "fields": []}
        manifest = self._manifests.get(job)
        if manifest is None:
            raise ReleaseRefused(self._reasons.get(job, "the job's executor has not asked for the site's approval"))
        require_approval(local, manifest)
        content, error, tensors = _opened(shareable)
        reported = manifest.check(task, content, tensors, error)
        size = payload_bytes(tensors, content) + len(error)
        sent = {
            "sent": True,
            "manifest": manifest.digest,
            "bytes": size,
            "tensors": len(tensors),
            "fields": list(reported),
        }
        return sent | ({"error": error} if error else {})


def _allowed(local: Path, site: str) -> AllowedMethods:
    try:
        file = own_site_file(local, site)
    except ConfigError:
        return AllowedMethods((), local)
    return AllowedMethods(load_site_config(file).allow_methods, file)


def approve(kit: Path, job: Path) -> Path:
    """Approve the manifest of a job at a site.

    Args:
        kit: the site's startup kit.
        job: an exported job's folder, or a deployed job's in the kit.

    Returns:
        The file that says so.

    Raises:
        ConfigError: the kit is no site's, or the folder is no job with a manifest, or holds what is not ours; names
            each file and key.
    """
    site = _site(kit)
    if foreign := foreign_parts(job_files(job)):
        raise ConfigError("\n- ".join((f"{job} is not a job as consilia export writes it:", *foreign[:MAX_FOREIGN])))
    name, manifest, _ = read_manifest(job)
    if already := approved(site.local).get(manifest.digest):
        return already
    short = manifest.digest.removeprefix("sha256:")[:12]
    folder = site.local / APPROVED
    # Root may approve, and gives what it writes to whoever owns the kit.
    if folder.is_symlink():
        raise ConfigError(f"{folder} is a symbolic link: approvals stay in {site.local}; remove the link")
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{short}.json"
    # Whoever approves, root for one, and with whatever umask: the user who runs NVFlare must be able to read it.
    hand_over(folder, stat.S_IMODE(folder.stat().st_mode | site.local.stat().st_mode))
    write_json(path, manifest.to_json(), private=True)
    hand_over(path, SHARED_MODE)
    return path


def withdraw(kit: Path, job: Path) -> tuple[Path, ...]:
    """Take back every approval of a job's manifest, running jobs included; the files that are gone.

    Raises:
        ConfigError: the kit is no site's, the folder no job, or its manifest is not approved.
    """
    site = _site(kit)
    name, manifest, _ = read_manifest(job)
    paths = tuple(path for digest, path in _approvals(site.local) if digest == manifest.digest)
    if not paths:
        raise ConfigError(f"the manifest of job {name} ({manifest.digest}) is not approved at {site.name}")
    for path in paths:
        path.unlink()
    if config_file(site).is_file():
        # A new approval begins with all that the limits allow.
        close_ledger(load_site_config(config_file(site)).state_dir, manifest.digest)
    return paths


def approved(local: Path) -> dict[str, Path]:
    """The approved manifests in a site's ``local/`` folder: where each is, by its digest.

    Raises:
        ConfigError: a file is no manifest. One that cannot be read might have been meant to take an approval back.
    """
    return dict(_approvals(local))


def require_approval(local: Path, manifest: Manifest) -> None:
    """Raise :class:`ReleaseRefused` unless a manifest is among those approved in a site's ``local/`` folder."""
    try:
        found = approved(local)
    except ConfigError as error:
        raise ReleaseRefused(str(error)) from error
    if manifest.digest not in found:
        raise ReleaseRefused(
            f"the manifest of this job ({manifest.digest}) is not approved here: look at it with consilia site "
            "manifest JOB, then consilia site approve JOB"
        )


def _approvals(local: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted((local / APPROVED).glob("*.json")):
        try:
            content = read_json(path, MAX_CONFIG_BYTES)
        except ConfigError as error:
            raise ConfigError(f"{error}. Remove or repair it") from error
        yield as_manifest(content, str(path)).digest, path


def _site(kit: Path) -> Kit:
    site = open_kit(kit)
    if site.kind != "client":
        raise ConfigError(f"{site.folder} is the kit of a {site.kind}: only sites approve what they send")
    return site


def _opened(shareable: Shareable) -> tuple[str, str, Mapping[str, Any]]:
    """Content, error and tensors of a result that is made like ours to the last key."""
    headers, dxo = shareable.get(HEADERS), shareable.get(DXO_KEY)
    _exactly("the result", shareable, {HEADERS, DXO_KEY})
    _exactly("the result's header", headers, {CONTENT_TYPE})
    if headers != {CONTENT_TYPE: "DXO"}:
        raise ReleaseRefused("the result's content type is not DXO")
    _exactly("the result's DXO", dxo, {"kind", "data", "meta"})
    _exactly("the DXO's meta", dxo["meta"], {CONTENT, ERROR})
    content, error = dxo["meta"][CONTENT], dxo["meta"][ERROR]
    if dxo["kind"] != DataKind.WEIGHTS or not isinstance(dxo["data"], dict):
        raise ReleaseRefused("the DXO does not hold weights by name")
    if type(content) is not str or type(error) is not str:
        raise ReleaseRefused(f"{CONTENT} and {ERROR} must be texts")
    return content, error, dxo["data"]


def _exactly(what: str, part: Any, keys: set[str]) -> None:
    if not isinstance(part, dict):
        raise ReleaseRefused(f"{what} is a {type(part).__name__}, expected keys {sorted(keys)}")
    if set(part) != keys:
        unlike = sorted(str(key)[:60] for key in set(part) ^ keys)
        raise ReleaseRefused(f"{what} must have the keys {sorted(keys)}; unlike are {unlike[:5]}")


def _refusal(reason: str) -> dict[str, Any]:
    return {"sent": False, "reason": reason}


def _append(path: Path, line: Mapping[str, Any]) -> None:
    """Add one line and wait until it is on the disk; a line that does not fit leaves nothing behind."""
    data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        # Every running job has a process, all write to one file. It is locked itself: filelock would empty it.
        fcntl.flock(handle, fcntl.LOCK_EX)
        before = os.fstat(handle).st_size
        try:
            if os.write(handle, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        except OSError:
            with suppress(OSError):
                os.ftruncate(handle, before)
            raise
    finally:
        os.close(handle)
