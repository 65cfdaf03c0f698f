"""``consilia site doctor``: is this site ready? A finding per check, and what to do where one is not good.

It reads, and opens one connection to the server. What cannot be checked, without a network for one, is a warning.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import psutil

import consilia
from consilia.core.errors import ConfigError
from consilia.data.check import DatasetReport, check_site
from consilia.data.site import SiteConfig, load_site_config
from consilia.deploy.doctor.findings import Finding, failed, ok, warning
from consilia.deploy.doctor.job import Job, check_datasets, check_job, read_job
from consilia.deploy.doctor.limits import check_limits
from consilia.deploy.doctor.modes import check_modes, others
from consilia.deploy.doctor.network import (
    check_certificates,
    check_clock,
    check_port,
    check_server_reached,
    check_transport,
)
from consilia.deploy.doctor.policies import readable
from consilia.deploy.install.config import config_file
from consilia.deploy.kit import Kit
from consilia.federation.server_settings import ServerSettings, load_server_settings

NVFLARE = "2.9"
GIGABYTE = 1024**3
COPIES = {"client": {"disk": 4, "memory": 4}, "server": {"disk": 8, "memory": 4}}
"""Copies of the exchanged tensors that a participant holds. At a site received, trained, personal, and a spare one; at
the server checkpoints, last and best model and their published copies, and one more for each site."""
SITES = 10
"""How many there will be: a server's kit does not say."""

Config = SiteConfig | ServerSettings


def examine(kit: Kit, place: Path | None = None) -> Iterator[Finding]:
    """Check a kit, for any job or for one.

    Args:
        kit: of a site or of the server.
        place: an exported job's folder.

    Raises:
        ConfigError: an administrator's kit, or ``place`` is no job.
    """
    if kit.kind == "admin":
        raise ConfigError(f"{kit.folder} is an administrator's kit: the doctor looks at sites and at the server")
    job = None if place is None else read_job(place)
    yield from check_versions(kit)
    yield from readable(kit)
    if kit.kind == "client":
        yield check_owner(kit)
    yield from check_modes(kit)
    config = None
    try:
        config = _config(kit)
        yield ok("configuration", str(config_file(kit) if config_file(kit).is_file() else "defaults, no server.yaml"))
    except ConfigError as error:
        yield failed("configuration", str(error), "write it, and install it: consilia site install --config")
    if config is not None:
        yield from check_data(kit, config, job)
        if job is not None:
            yield from check_job(kit, job, config.allow_models, config.foundation_models)
    yield from check_machine(kit, config, 0 if job is None else job.model_bytes)
    yield from check_certificates(kit)
    yield check_clock()
    yield check_transport(kit)
    yield check_port(kit) if kit.kind == "server" else check_server_reached(kit)


def check_versions(kit: Kit) -> Iterator[Finding]:
    """Python and packages here, and whether the kit's start.sh will find them."""
    nvflare, torch = version("nvflare"), version("torch")
    text = f"Consilia {consilia.__version__}, NVFlare {nvflare}, torch {torch}, Python {platform.python_version()}"
    if nvflare.split(".")[:2] == NVFLARE.split("."):
        yield ok("versions", text)
    else:
        yield failed("versions", f"{text}: Consilia needs NVFlare {NVFLARE}", f"pip install 'nvflare=={NVFLARE}.*'")
    python = shutil.which("python3")
    if python is None or not _has_consilia(python):
        todo = f"start it with PATH={Path(sys.executable).parent}:$PATH {kit.folder / 'startup' / 'start.sh'}"
        yield warning("python3", f"start.sh takes python3 from PATH; {python} has no Consilia", todo)


def _has_consilia(python: str) -> bool:
    finds = "import importlib.util as u, sys; sys.exit(not (u.find_spec('consilia') and u.find_spec('nvflare')))"
    try:
        return subprocess.run([python, "-c", finds], capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def check_owner(kit: Kit) -> Finding:
    """Whether the user who runs this could change or delete the site's policies, approvals and startup files.

    Only a key may be that user's own: nobody else is to read it, and in a folder of another user's it stays.
    """
    check, folders = "owner of local/", (kit.folder / "startup", kit.local)
    places = [*folders, *(path for folder in folders for path in folder.rglob("*") if path.suffix != ".key")]
    open_ones = [path for path in places if _is_ours(path)]
    # Who can write to the kit's own folder could put other folders in their place, unless it is sticky.
    top = kit.folder.stat()
    if top.st_uid == os.geteuid() or (_is_ours(kit.folder) and not top.st_mode & stat.S_ISVTX):
        open_ones.insert(0, kit.folder)
    if not open_ones:
        return ok(check, "this user can change neither local/ nor startup/")
    text = f"this user can change {open_ones[0]}{f' and {len(open_ones) - 1} more' if open_ones[1:] else ''}"
    todo = "run NVFlare, and this check, as a user who owns neither: docs/deploy.md, who owns a kit"
    return warning(check, text, todo)


def _is_ours(path: Path) -> bool:
    # An owner could give itself the right.
    return os.access(path, os.W_OK, effective_ids=True) or path.lstat().st_uid == os.geteuid()


def _config(kit: Kit) -> Config:
    path = config_file(kit)
    if kit.kind == "server":
        return load_server_settings(path)
    config = load_site_config(path)
    if config.site != kit.name:
        raise ConfigError(f"{path} is for site {config.site!r}, the kit is of {kit.name!r}")
    return config


def check_data(kit: Kit, config: Config, job: Job | None) -> Iterator[Finding]:
    """Read the data as ``consilia site check`` does: a site's, or the server's public ones where it has any."""
    if isinstance(config, ServerSettings):
        if config.data is not None:
            yield from _datasets(config.data, None)
        return
    there = list(config.datasets)
    if job is not None:
        yield from check_datasets(job, there)
        there = [dataset for dataset in job.datasets(there) if dataset in there]
    yield from _datasets(config_file(kit), there, config, job)


def _datasets(
    path: Path, datasets: list[str] | None, config: SiteConfig | None = None, job: Job | None = None
) -> Iterator[Finding]:
    if datasets == []:
        return
    try:
        reports = check_site(path, datasets)
        yield from (_dataset(report, path) for report in reports)
        if job is not None and config is not None:
            yield from check_limits(job, config, reports)
    except ConfigError as error:
        yield failed("data", str(error), f"correct {path}")


def _dataset(report: DatasetReport, path: Path) -> Finding:
    check, todo = f"dataset {report.dataset}", f"consilia site check {path} --dataset {report.dataset}"
    if report.errors:
        return failed(
            check, f"{len(report.errors)} error(s), the first: {report.errors[0]}", f"see all of them: {todo}"
        )
    if report.warnings:
        return warning(check, f"{report.cases} cases; {'; '.join(report.warnings)}", f"see {todo}")
    return ok(check, f"{report.cases} cases")


def check_machine(kit: Kit, config: Config | None, model_bytes: int) -> Iterator[Finding]:
    """Disk and memory against what a model of ``model_bytes`` needs, and the folder of the state."""
    state = None if config is None else _state(kit, config)
    sites, suffix = (SITES, f" with {SITES} sites") if kit.kind == "server" else (0, "")
    sizes = {kind: (copies + sites) * model_bytes for kind, copies in COPIES[kit.kind].items()}
    need = max(GIGABYTE, sizes["disk"])
    places = [_existing(path) for path in (state, kit.folder) if path is not None]
    for place in {path.stat().st_dev: path for path in places}.values():
        free = shutil.disk_usage(place).free
        text = f"{free / GIGABYTE:.1f} GiB free in {place}, needed {need / GIGABYTE:.1f}{suffix}"
        yield ok("disk", text) if free >= need else failed("disk", text, "make room: a full disk ends a run")
    available, wanted = psutil.virtual_memory().available, GIGABYTE + sizes["memory"]
    text = f"{available / GIGABYTE:.1f} GiB available, a job's process needs about {wanted / GIGABYTE:.1f}{suffix}"
    yield ok("memory", text) if available >= wanted else warning("memory", text, "end other programs before a run")
    if state is not None:
        yield _check_state(kit, state)


def _state(kit: Kit, config: Config) -> Path:
    if isinstance(config, SiteConfig):
        return config.state_dir
    # The part of the path that all jobs share.
    folder = config.run_folder("{", kit.folder)
    return next(path for path in (folder, *folder.parents) if "{" not in str(path))


def _existing(path: Path) -> Path:
    return next(part for part in (path, *path.parents) if part.exists())


def _check_state(kit: Kit, folder: Path) -> Finding:
    there = _existing(folder)
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        todo = f"give {there} to the user who runs NVFlare, or change state_dir"
        return failed("state", f"{folder} cannot be written", todo)
    mode = stat.S_IMODE(folder.stat().st_mode) if there == folder else 0
    closed_above = folder.is_relative_to(kit.folder) and not others(kit.folder)
    if mode & 0o077 and not closed_above:
        text = f"others can look into {folder} (mode {mode:o}), where models and reports lie"
        return failed("state", text, f"chmod 700 {folder}")
    return ok("state", f"{folder} can be written{'' if there == folder else ', and will be made'}")
