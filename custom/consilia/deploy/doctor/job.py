"""The doctor's look at one job: would it run here?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import consilia
from consilia.core.errors import CheckpointError, ConfigError
from consilia.core.reading import read_json
from consilia.data.allowed import FoundationFolder
from consilia.deploy.doctor.findings import Finding, failed, ok, warning
from consilia.deploy.foreign import MAX_FOREIGN, JobFiles, foreign_parts, job_files
from consilia.deploy.kit import Kit
from consilia.deploy.release_filter import approved
from consilia.federation.config import RunConfig
from consilia.federation.release_manifest import CLIENT_CONFIG, MAX_CONFIG_BYTES, Manifest, read_manifest
from consilia.methods.registry import make_method
from consilia.models.build import is_allowed
from consilia.models.config import FoundationConfig
from consilia.models.exchange import ModelSize
from consilia.models.foundation import foundation_place, verify_foundation


@dataclass(frozen=True)
class Job:
    """An exported job.

    Attributes:
        name: as it says itself.
        config: its configuration.
        version: of the Consilia that made it.
        manifest: what it asks of its sites, and what they send.
        files: of its apps.
    """

    name: str
    config: RunConfig
    version: str
    manifest: Manifest
    files: JobFiles

    @property
    def model_bytes(self) -> int:
        """Size of the tensors that a site sends."""
        return sum(ModelSize.of_layout(layout).bytes for layout in self.manifest.tensors.values())

    def datasets(self, there: Sequence[str]) -> list[str]:
        """The datasets that the job looks for at a site with the datasets ``there``."""
        tasks = make_method(self.config.method).datasets()
        return [dataset for dataset in there if dataset in tasks] if tasks else [self.config.dataset]


def read_job(place: Path) -> Job:
    """Read an exported job folder, or a job's run folder in a kit.

    Raises:
        ConfigError: it is no job of Consilia.
    """
    files = job_files(place)
    try:
        name, manifest, config = read_manifest(place)
    except ConfigError as error:
        version = str(_arguments(place).get("version", consilia.__version__))
        if version == consilia.__version__:
            raise
        raise ConfigError(f"{_made_by(place.name, version)}, and its configuration cannot be read: {error}") from error
    arguments = _arguments(place)
    return Job(name, config, str(arguments.get("version", "")), manifest, files)


def _arguments(place: Path) -> dict[str, Any]:
    """What the job's executor is made with; empty where that cannot be read."""
    try:
        path = min(place.glob(f"*/config/{CLIENT_CONFIG}"))
        found: dict[str, Any] = read_json(path, MAX_CONFIG_BYTES, links=False)["executors"][0]["executor"]["args"]
    except (ConfigError, ValueError, KeyError, TypeError, IndexError):
        return {}
    return found if isinstance(found, dict) else {}


def check_job(
    kit: Kit, job: Job, allow_models: Sequence[str], foundations: Mapping[str, FoundationFolder]
) -> Iterator[Finding]:
    """Version, model class, pre-trained models; at a site also its approval."""
    if job.version == consilia.__version__:
        yield ok("job", f"{job.name}: made by Consilia {job.version}, as here")
    else:
        text = _made_by(job.name, job.version)
        yield failed("job", text, "server and sites need the version that makes the jobs: install it, or export anew")
    yield from _check_parts(job)
    yield _check_class(job.config.model.class_, allow_models, kit)
    for asked in _foundations(kit, job.config):
        yield _check_foundation(asked, foundations)
    if kit.kind == "client":
        yield _check_approval(kit, job)


def _made_by(name: str, version: str) -> str:
    return f"{name} was made by Consilia {version or 'unknown'}, here is {consilia.__version__}"


def _check_parts(job: Job) -> Iterator[Finding]:
    """A line for each part of the job that is not as consilia export writes it, and one for code that it brings."""
    found = foreign_parts(job.files)
    todo = "take no such job: ask who made it for one that consilia export has written"
    yield from (failed("parts of the job", text, todo) for text in found[:MAX_FOREIGN])
    if not found:
        yield ok("parts of the job", f"{job.name}: as consilia export writes them")
    if job.files.code:
        text = f"{job.name} brings code: {len(job.files.code)} files"
        yield warning("code of the job", text, "no approval binds code: docs/data-release.md")


def _check_class(path: str, allow_models: Sequence[str], kit: Kit) -> Finding:
    if is_allowed(path, allow_models):
        return ok("model class", f"{path} is listed in allow_models")
    file = "site.yaml" if kit.kind == "client" else "server.yaml"
    return failed("model class", f"{path} is not listed in allow_models", f"add it to {kit.local / file}, if you agree")


def _foundations(kit: Kit, config: RunConfig) -> list[FoundationConfig]:
    asked = [] if config.model.foundation is None else [config.model.foundation]
    return [*asked, *(make_method(config.method).server_foundations() if kit.kind == "server" else ())]


def _check_foundation(asked: FoundationConfig, folders: Mapping[str, FoundationFolder]) -> Finding:
    check = "foundation model"
    try:
        place = foundation_place(asked.model, asked.digest, folders)
        verify_foundation(place)
    except (ConfigError, CheckpointError) as error:
        return failed(check, str(error), f"get {asked.model}, and list what consilia site foundation prints for it")
    return ok(check, f"{asked.model} is here, with the digest that is listed")


def _check_approval(kit: Kit, job: Job) -> Finding:
    check = "approval"
    try:
        found = approved(kit.local).get(job.manifest.digest)
    except ConfigError as error:
        return failed(check, str(error), "repair or remove that file")
    if found is None:
        todo = (
            f"read what consilia site manifest prints for the job; then: consilia site approve JOB --kit {kit.folder}"
        )
        return failed(check, f"what {job.name} asks and sends is not approved here: nothing would be done", todo)
    return ok(check, f"what {job.name} asks and sends is approved ({found.name})")


def check_datasets(job: Job, there: Sequence[str]) -> Iterator[Finding]:
    """Whether the site has data for the job at all."""
    check, wanted = "data", job.datasets(there)
    if not wanted:
        tasks = sorted(make_method(job.config.method).datasets())
        yield failed(check, f"{job.name} trains {tasks}, here are {sorted(there)}", "write one of these datasets")
    for dataset in wanted:
        if dataset not in there:
            todo = f"write a dataset {dataset!r} in site.yaml"
            yield failed(check, f"{job.name} needs dataset {dataset!r}, here are {sorted(there)}", todo)
    if wanted and make_method(job.config.method).datasets():
        away = sorted(set(make_method(job.config.method).datasets()) - set(wanted))
        if away:
            yield warning(check, f"no data here for the tasks {away} of {job.name}: the site trains the others only")
