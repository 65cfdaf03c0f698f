"""The doctor on jobs, data and the machine, at really provisioned kits."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import consilia
from consilia.core.errors import ConfigError
from consilia.data.allowed import DEFAULT_ALLOWED
from consilia.data.limits import SiteLimits
from consilia.data.site import load_site_config
from consilia.deploy.doctor.examine import check_data, check_machine, check_owner, check_versions, examine
from consilia.deploy.doctor.job import check_job, read_job
from consilia.deploy.doctor.modes import check_modes
from consilia.deploy.install.config import config_file
from consilia.deploy.kit import Kit
from consilia.deploy.release_filter import approve
from consilia.federation.config import run_config
from consilia.federation.release_fields import asked_of
from tests.deploy_units.kits import bad, done, kit_of, site_yaml, visits_job


@pytest.fixture
def site(site: Kit, tmp_path: Path) -> Kit:
    done(site, site_yaml(tmp_path / "data"))
    return site


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return visits_job(tmp_path_factory.mktemp("jobs"))


def test_a_job_needs_its_version_class_and_approval(site: Kit, job: Path) -> None:
    known = read_job(job)
    assert (known.name, known.version, known.model_bytes) == ("visits", consilia.__version__, 122 * 4)
    assert bad(check_job(site, known, DEFAULT_ALLOWED, {})) == [("approval", "FAILED")]
    approve(site.folder, job)
    assert bad(check_job(site, known, DEFAULT_ALLOWED, {})) == []
    assert bad(check_job(site, known, ("consilia.models.cnn.FourLayerCNN",), {})) == [("model class", "FAILED")]


def test_a_job_of_another_version_or_with_a_missing_foundation_model_fails(
    site: Kit, job: Path, tmp_path: Path
) -> None:
    (path,) = job.glob("*/config/config_fed_client.json")
    content = json.loads(path.read_text())
    arguments = content["executors"][0]["executor"]["args"]
    arguments["version"] = "0.0.1"
    arguments["config"]["model"]["foundation"] = {"model": "vit-b16", "digest": f"sha256:{'0' * 64}"}
    asked = asked_of(run_config(arguments["config"]))
    arguments["release_manifest"]["asked"] = [f"{name}: {value}" for name, value in asked.items()]
    other = tmp_path / "other" / "app" / "config" / path.name
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps(content))
    approve(site.folder, tmp_path / "other")
    known = read_job(tmp_path / "other")
    assert bad(check_job(site, known, DEFAULT_ALLOWED, {})) == [("job", "FAILED"), ("foundation model", "FAILED")]
    arguments["config"]["new_key"] = 1
    other.write_text(json.dumps(content))
    with pytest.raises(
        ConfigError, match=r"made by Consilia 0\.0\.1, here is .*, and its configuration cannot be read"
    ):
        read_job(tmp_path / "other")
    with pytest.raises(ConfigError, match="is no job"):
        read_job(tmp_path)


def test_only_the_jobs_dataset_is_read_and_a_missing_one_named(site: Kit, job: Path, tmp_path: Path) -> None:
    path = site.local / "site.yaml"
    config, known = load_site_config(path), read_job(job)
    finding, within = check_data(site, config, known)
    assert (within.check, within.level) == ("limits", "ok")
    assert (finding.check, finding.text) == ("dataset diagnosis", "40 cases")
    path.write_text(path.read_text().replace("min_cases_per_metric: null", "min_cases_per_metric: 10"))
    few, *limits = check_data(site, config.model_copy(update={"limits": SiteLimits()}), known)
    assert (few.check, few.level) == ("dataset diagnosis", "warning")
    assert few.text.count("limits.min_cases_per_metric is 10") == 2
    # 28 of them are to train on.
    assert [(finding.level, finding.text.partition(":")[0]) for finding in limits] == [
        ("FAILED", "limits.max_batch_fraction"),
        ("FAILED", "limits.min_training_cases"),
    ]
    assert limits[1].todo == "ask for another job, or lower limits.min_training_cases in site.yaml, if you agree"
    # A new approval would not help, and is not proposed.
    tight = config.model_copy(update={"limits": config.limits.model_copy(update={"max_rounds": 1})})
    (few,) = (found for found in check_data(site, tight, known) if "max_rounds" in found.text)
    assert (few.level, few.text) == ("FAILED", "limits.max_rounds: the job asks 20, this site allows 1")
    (tmp_path / "data" / "visits.csv").unlink()
    (finding,) = check_data(site, config, known)
    assert (finding.level, "visits.csv" in finding.text) == ("FAILED", True)
    path.write_text(path.read_text().replace("diagnosis:", "prognosis:"))
    (finding,) = check_data(site, load_site_config(path), known)
    assert (finding.level, "needs dataset 'diagnosis', here are ['prognosis']" in finding.text) == ("FAILED", True)


def test_disk_and_memory_are_compared_with_the_jobs_model(site: Kit) -> None:
    assert bad(check_machine(site, None, 0)) == []
    assert bad(check_machine(site, None, 2**60)) == [("disk", "FAILED"), ("memory", "warning")]


def test_at_the_server_every_site_counts(server: Kit) -> None:
    disk, memory, *_ = (item.text for item in check_machine(server, None, 2**30))
    # Eight of its own, or four in memory beside the process itself, and one for each of ten sites.
    assert disk.endswith("needed 18.0 with 10 sites")
    assert memory.endswith("a job's process needs about 15.0 with 10 sites")


def test_the_state_folder_is_the_owners_alone(site: Kit, tmp_path: Path) -> None:
    config = load_site_config(site.local / "site.yaml")
    assert "will be made" in list(check_machine(site, config, 0))[-1].text
    config.state_dir.mkdir()
    config.state_dir.chmod(0o755)
    assert bad(check_machine(site, config, 0)) == [("state", "FAILED")]
    config.state_dir.chmod(0o700)
    assert bad(check_machine(site, config, 0)) == []
    config.state_dir.rmdir()
    config.state_dir.write_text("a file")
    assert bad(check_machine(site, config, 0)) == [("state", "FAILED")]


@pytest.mark.parametrize("kind", ["site", "server"])
def test_nobody_else_looks_into_a_kit(request: pytest.FixtureRequest, kind: str) -> None:
    kit: Kit = request.getfixturevalue(kind)
    assert bad(check_modes(kit)) == []
    kit.folder.chmod(0o1770)
    assert bad(check_modes(kit)) == [], "a group of the site's own may"
    kit.folder.chmod(0o755)
    assert [finding.todo for finding in check_modes(kit)] == [f"chmod o-rwx {kit.folder}"]
    config = config_file(kit)
    config.touch()
    config.chmod(0o644)
    assert f"chmod o-rwx {config}" in [finding.todo for finding in check_modes(kit)]


def test_the_keys_of_all_participants_are_not_left_readable(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    keys = workspace / "state" / "cert.json"
    keys.parent.mkdir(parents=True)
    keys.touch()
    kit = kit_of("hospital-1", workspace / "prod_00")
    for folder in (workspace, keys.parent):
        folder.chmod(0o755)
    keys.chmod(0o644)
    (finding,) = check_modes(kit)
    assert (finding.level, f"chmod -R go= {workspace}" in finding.todo) == ("FAILED", True)
    workspace.chmod(0o700)
    assert bad(check_modes(kit)) == []


def test_start_sh_will_find_consilia(site: Kit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert bad(check_versions(site)) == []
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bad(check_versions(site)) == [("python3", "warning")]


def test_a_site_yaml_of_another_site_fails_and_the_other_checks_go_on(site: Kit, job: Path) -> None:
    path = site.local / "site.yaml"
    path.write_text(path.read_text().replace("site: hospital-1", "site: hospital-2"))
    found = {finding.check: finding for finding in examine(site, job)}
    assert "is for site 'hospital-2', the kit is of 'hospital-1'" in found["configuration"].text
    assert {"versions", "disk", "private key", "clock", "server"} <= set(found)
    with pytest.raises(ConfigError, match="administrator's kit"):
        next(examine(kit_of("admin@consortium.org", site.folder.parent)))


@contextmanager
def nobody() -> Iterator[None]:
    """For a while this process has the rights of a user who owns nothing."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_who_runs_nvflare_should_not_be_able_to_change_the_sites_policies() -> None:
    # Not below the folder of pytest, or of TMPDIR, into which no other user may be able to look.
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        kit = kit_of("hospital-1", Path(folder))
        approvals = kit.local / "approved"
        approvals.mkdir(mode=0o755)
        for place in (kit.local, kit.folder / "startup"):
            place.chmod(0o755)
        shutil.chown(kit.folder / "startup" / "client.key", 65534)
        kit.folder.chmod(0o1777)
        assert check_owner(kit).level == "warning"
        with nobody():
            assert check_owner(kit).level == "ok"
            (kit.folder / "log.txt").touch()
            # What NVFlare does with a forged job id.
            with pytest.raises(PermissionError):
                shutil.rmtree(kit.local)
            with pytest.raises(PermissionError):
                kit.local.rename(kit.folder / "old")
        for place, mode in ((approvals, 0o777), (kit.local, 0o777), (kit.folder, 0o777)):
            before = stat.S_IMODE(place.stat().st_mode)
            place.chmod(mode)
            with nobody():
                found = check_owner(kit)
            assert (found.level, f"can change {place}" in found.text) == ("warning", True)
            place.chmod(before)
        shutil.chown(approvals, 65534)
        approvals.chmod(0o555)
        with nobody():
            assert check_owner(kit).level == "warning"
