"""Parts of a job that are not as ``consilia export`` writes them: each is named by file and key, and refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consilia.core.errors import ConfigError
from consilia.core.plain import plain
from consilia.deploy.byoc import add_code
from consilia.deploy.doctor.job import check_job, read_job
from consilia.deploy.foreign import MAX_FILES, foreign_parts, job_files
from consilia.deploy.kit import Kit
from consilia.deploy.release_filter import approve
from consilia.models.build import DEFAULT_ALLOWED
from tests.conftest import REPOSITORY
from tests.deploy_units.kits import bad, visits_job

CLIENT, SERVER = "app/config/config_fed_client.json", "app/config/config_fed_server.json"
EVIL = {"id": "evil", "path": "evil.Class", "args": {}}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return visits_job(tmp_path_factory.mktemp("jobs"))


@pytest.fixture
def job(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "visits")


def changed(job: Path, file: str, change: Callable[[Any], Any]) -> list[str]:
    """The foreign parts of a job of which a file was changed."""
    content = json.loads((job / file).read_text())
    change(content)
    (job / file).write_text(json.dumps(content))
    return foreign_parts(job_files(job))


@pytest.mark.parametrize("folder", sorted((REPOSITORY / "jobs").iterdir()), ids=lambda path: path.name)
def test_no_shipped_job_has_any(folder: Path) -> None:
    assert foreign_parts(job_files(folder)) == []


def executor(content: Any) -> Any:
    return content["executors"][0]["executor"]


CHANGES: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "another executor": (
        CLIENT,
        lambda content: executor(content).update(path="nvflare.app_common.np.np_trainer.NPTrainer"),
        "key executors.0.executor.path: expected 'consilia.flare.executor.ConsiliaExecutor', got 'nvflare.app_co",
    ),
    "an argument": (
        CLIENT,
        lambda content: executor(content)["args"].update(site="x"),
        "key executors.0.executor.args",
    ),
    "a class by its old key": (
        CLIENT,
        lambda content: executor(content).update(class_path="x"),
        "key executors.0.executor.class_path",
    ),
    "a second executor": (CLIENT, lambda content: content["executors"].append(EVIL), "key executors: expected [{"),
    "fewer tasks": (CLIENT, lambda content: content["executors"][0].update(tasks=["train"]), "key executors.0.tasks"),
    "a component": (
        CLIENT,
        lambda content: content["components"].append(EVIL),
        "key components: expected [], got [",
    ),
    "a data filter": (CLIENT, lambda content: content["task_data_filters"].append(EVIL), "key task_data_filters: exp"),
    "a result filter": (CLIENT, lambda content: content.update(task_result_filters=[EVIL]), "key task_result_filters"),
    "a key of two lines": (
        CLIENT,
        lambda content: content.update({"a\nApproved \x1b[2J": 1}),
        r"key a\nApproved \x1b[2J: a job of Consilia has no such key",
    ),
    "a variable": (CLIENT, lambda content: content.update(rate=1e9), "key rate: a job of Consilia has no such key"),
    "no filters": (
        CLIENT,
        lambda content: content.pop("task_data_filters"),
        "key task_data_filters: expected []",
    ),
    "another format": (
        CLIENT,
        lambda content: content.update(format_version=2.0),
        "key format_version: expected 2",
    ),
    "another controller": (SERVER, lambda content: content["workflows"][0].update(path="x.Y"), "key workflows.0.path"),
    "a second workflow": (SERVER, lambda content: content["workflows"].append(EVIL), "key workflows: expected"),
    "a component at the server": (
        SERVER,
        lambda content: content["components"].append(EVIL),
        "key components: expected",
    ),
    "another run at the server": (
        SERVER,
        lambda content: content["workflows"][0]["args"]["config"].update(rounds=999),
        "key components.0.args.config.rounds: expected 999, got 20",
    ),
    "a launcher": (
        "meta.json",
        lambda content: content.update(launcher_spec={"default": {"docker": {}}}),
        "key launcher_",
    ),
    "an image": ("meta.json", lambda content: content.update(resource_spec={"s": {"docker": {}}}), "key resource_spec"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_is_named_by_file_and_key(job: Path, name: str) -> None:
    file, change, words = CHANGES[name]
    first, *_ = changed(job, file, change)
    assert first.startswith(f"{file}: {words}")


def test_the_server_must_lead_the_run_that_sites_are_asked_to_join(job: Path) -> None:
    def other(content: Any) -> None:
        for item in (*content["workflows"], *content["components"]):
            item["args"]["config"]["rounds"] = 999

    assert changed(job, SERVER, other) == [f"{SERVER}: the configuration is not that of {CLIENT}"]


def test_resources_that_a_job_needs_are_no_foreign_part(job: Path) -> None:
    needs = {"hospital-1": {"num_of_gpus": 1, "mem_per_gpu_in_GiB": 16}}
    assert changed(job, "meta.json", lambda content: content.update(resource_spec=needs)) == []


@pytest.mark.parametrize("name", ["config/config_fed_client.conf", "custom/evil.py", "\x1b[2Jnote", "config/x/y.json"])
def test_a_further_file_is_named(job: Path, name: str) -> None:
    path = job / "app" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
    assert foreign_parts(job_files(job)) == [f"app/{plain(name)}: a job of Consilia has no such file"]


@pytest.mark.parametrize("place", ["app", "app/config", CLIENT, "app/more", "app/config/more"])
def test_links_are_refused(job: Path, tmp_path: Path, place: str) -> None:
    path = job / place
    if path.exists():
        path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    with pytest.raises(ConfigError, match="link"):
        job_files(job)


def test_a_pipe_and_thousands_of_files_are_refused(job: Path) -> None:
    os.mkfifo(job / "app" / "pipe")
    with pytest.raises(ConfigError, match="pipe is a link or no plain file"):
        job_files(job)
    (job / "app" / "pipe").unlink()
    for number in range(MAX_FILES):
        (job / "app" / f"{number}").touch()
    with pytest.raises(ConfigError, match=f"more than {MAX_FILES} files"):
        job_files(job)


def test_what_nvflare_adds_to_a_deployed_job_is_none(job: Path, tmp_path: Path) -> None:
    deployed = tmp_path / "kit" / "9e2cb7b0"
    shutil.copytree(job / "app", deployed / "app_hospital-1")
    for folder in (deployed / "app_hospital-1", deployed / "app_hospital-1" / "config"):
        for name in (".__nvfl_sig.json", ".__nvfl_submitter.crt"):
            (folder / name).touch()
    (deployed / "log.txt").touch()
    meta = {**json.loads((job / "meta.json").read_text()), "submitter_name": "lead", "job_id": "9e2cb7b0"}
    (deployed / "meta.json").write_text(json.dumps(meta))
    assert foreign_parts(job_files(deployed)) == []


def test_approve_and_doctor_refuse_them(job: Path, site: Kit) -> None:
    content = json.loads((job / CLIENT).read_text())
    content["components"].append(EVIL)
    (job / CLIENT).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f"not a job as consilia export writes it:\n- {CLIENT}: key components"):
        approve(site.folder, job)
    assert not (site.local / "approved").exists()
    failures = bad(check_job(site, read_job(job), DEFAULT_ALLOWED, {}))
    assert failures == [("parts of the job", "FAILED"), ("approval", "FAILED")]


def test_code_of_the_package_is_said_and_approved(job: Path, site: Kit) -> None:
    add_code(job)
    files = job_files(job)
    assert foreign_parts(files) == []
    assert "app/custom/consilia/__init__.py" in files.code
    approve(site.folder, job)
    assert bad(check_job(site, read_job(job), DEFAULT_ALLOWED, {})) == [("code of the job", "warning")]
