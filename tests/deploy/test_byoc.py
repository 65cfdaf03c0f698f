"""Code that a job brings along: where Consilia is not installed it runs to the same bytes; a site may refuse it."""

from __future__ import annotations

import json
import os
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from consilia.cli.app import app
from consilia.deploy.byoc import add_code
from consilia.federation.config import RunConfig
from consilia.study.study import load_study, study_config
from poc.local import LEAD, SERVER, LocalFederation
from tests.deploy.support import export, hashes, in_process, submit, two_sites

pytestmark = pytest.mark.deploy

RESOURCES = "resources.json"


def short_run(seed: int) -> RunConfig:
    return study_config(load_study("wisconsin"), "fedkper", seed, {}, ["rounds=2", "training.local_epochs=1"])


def two_jobs(config: RunConfig, folder: Path, min_clients: int) -> tuple[Path, Path]:
    """The same run as a job that brings its code, and as one that does not."""
    bringing = export(config, folder, "bringing", min_clients)
    add_code(bringing)
    return bringing, export(config, folder, "bare", min_clients)


def python_without_consilia(folder: Path) -> Path:
    """The folder of an interpreter that has every package of this one, but for those installed by a link."""
    venv.create(folder, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    others = [path for path in sys.path if path.endswith("site-packages")]
    (folder / "lib" / version / "site-packages" / "others.pth").write_text("\n".join(others))
    return folder / "bin"


def with_site_yaml_only(federation: LocalFederation) -> None:
    """Kits as NVFlare provisions them; the server's default store would be shared by all servers of this machine."""
    local = federation.server_kit / "local"
    resources: dict[str, Any] = json.loads((local / f"{RESOURCES}.default").read_text())
    store = federation.server_kit / "storage"
    resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str(store / "snapshots")
    (jobs,) = [item for item in resources["components"] if item["id"] == "job_manager"]
    jobs["args"]["uri_root"] = str(store / "jobs")
    (local / RESOURCES).write_text(json.dumps(resources))
    for name, site in federation.sites.items():
        (federation.kit(name) / "local" / "site.yaml").write_text(site.read_text())


def as_typed(*arguments: object) -> tuple[int, str]:
    """Exit status and output of the command line, on one line."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    return done.exit_code, " ".join(done.output.split())


def test_where_consilia_is_not_installed_the_job_brings_it(tmp_path: Path) -> None:
    sites = two_sites(tmp_path / "sites")
    config = short_run(40)
    bringing, bare = two_jobs(config, tmp_path / "jobs", 2)
    federation = LocalFederation(tmp_path / "federation", sites)
    federation.provision()
    with_site_yaml_only(federation)
    path = {"PATH": f"{python_without_consilia(tmp_path / 'python')}{os.pathsep}{os.environ['PATH']}"}
    federation.environment = dict.fromkeys((SERVER, *sites), path)
    with federation:
        federation.start()
        run = submit(federation, bringing)
        record = run.record()
        expected = in_process(config, sites, tmp_path / "inprocess")
        assert hashes(record) == hashes(expected)
        status, told = as_typed("submit", bare, "--kit", federation.kit(LEAD), "--follow")
        assert status == 1
        # Server and sites refuse it, each as soon as its process is up: who is first decides on NVFlare's word for it.
        assert "or refused what the job would run" in told
        refused = (
            "Component 'consilia.flare.executor.ConsiliaExecutor' at config path 'executors.#1.executor' is not in"
        )
        for name in sites:
            (log,) = [path for path in federation.kit(name).glob("*/log.txt") if path.parent.name in told]
            assert refused in log.read_text()


def test_a_site_that_forbids_it_refuses_and_the_others_go_on(
    three: dict[str, Path], start: Any, tmp_path: Path
) -> None:
    config = short_run(41)
    bringing = export(config, tmp_path / "jobs", "bringing", 2)
    add_code(bringing)
    all_needed = export(config, tmp_path / "jobs", "all-needed", 3)
    add_code(all_needed)
    federation: LocalFederation = start(three, [bringing], run=False)
    *others, strict = three
    for name in others:
        # NVFlare's default lets a lead bring code.
        (federation.kit(name) / "local" / "authorization.json").unlink()
    federation.start()
    kit = federation.kit(LEAD)

    status, told = as_typed("submit", bringing, "--kit", kit, "--download", tmp_path / "fetched")
    assert status == 0
    assert f"{strict}: absent" in told
    assert "BYOC not permitted" in told
    (fetched,) = (tmp_path / "fetched").iterdir()
    result = json.loads((fetched / "workspace" / "consilia" / "result.json").read_text())
    assert [sorted(item["contributions"]) for item in result["rounds"]] == [others, others]

    status, told = as_typed("submit", all_needed, "--kit", kit, "--follow")
    assert status == 1
    assert "the job could not be started" in told
    assert f"{strict}: BYOC not permitted" in told
