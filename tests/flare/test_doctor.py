"""The doctor, at really provisioned kits: what is wrong is found and named, and what is right is not complained of."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import consilia
from consilia.core.errors import ConfigError
from consilia.data.site import load_site_config
from consilia.flare.doctor import check_data, check_machine, check_versions, examine
from consilia.flare.doctor_findings import Finding
from consilia.flare.doctor_job import check_job, read_job
from consilia.flare.doctor_network import check_certificates, check_port, check_server_reached
from consilia.flare.doctor_policies import check_policies, readable
from consilia.flare.install import install, plan_installation
from consilia.flare.install_policies import ALLOWED_CLASSES
from consilia.flare.kit import Kit, open_kit
from consilia.flare.outgoing import approve
from consilia.models.build import DEFAULT_ALLOWED
from tests.flare.kits import kit_of, provisioned, visits_job
from tests.flare.test_install import read, site_yaml, write


@pytest.fixture
def site(tmp_path: Path) -> Kit:
    kit = kit_of("hospital-1", tmp_path)
    install(plan_installation(kit, site_yaml(tmp_path / "data")))
    return kit


@pytest.fixture
def server(tmp_path: Path) -> Kit:
    kit = kit_of("localhost", tmp_path)
    install(plan_installation(kit))
    return kit


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return visits_job(tmp_path_factory.mktemp("jobs"))


def bad(findings: Iterator[Finding]) -> list[tuple[str, str]]:
    """Check and level of what is not ok."""
    return [(finding.check, finding.level) for finding in findings if finding.level != "ok"]


def test_before_the_installation_everything_that_matters_fails_and_after_it_nothing(tmp_path: Path) -> None:
    kit = kit_of("hospital-1", tmp_path)
    found = list(readable(kit))
    assert {finding.check for finding in found if finding.level == "FAILED"} == {
        "allow-list",
        "log streaming",
        "filter of what leaves",
        "rights",
    }
    assert all("consilia site install" in finding.todo for finding in found if "Consilia cannot run" in finding.text)
    install(plan_installation(kit))
    assert bad(check_policies(kit)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"class_allow_list": [*ALLOWED_CLASSES, "consilia."]},
        {"class_allow_list": [*ALLOWED_CLASSES, "consilia.flare.executor"]},
        {"class_allow_list": [*ALLOWED_CLASSES, "*"]},
        {"class_allow_list": [*ALLOWED_CLASSES[1:]]},
        {"class_allow_list": [*ALLOWED_CLASSES, "nvflare."]},
        {"class_allow_list": [*ALLOWED_CLASSES, "nvflare.app_common.filters.svt_privacy.SVTPrivacy"]},
        {"class_allow_list": [*ALLOWED_CLASSES, "nvflare.app_common.widgets.convert_to_fed_event.ConvertToFedEvent"]},
        {"class_allow_list": [*ALLOWED_CLASSES, "short"]},
        {"class_list_enforcement_mode": "warn"},
        {"class_list_enforcement_mode": "maybe"},
    ],
)
def test_an_allow_list_with_a_hole_fails(site: Kit, change: dict[str, Any]) -> None:
    write(site, "resources.json", {**read(site, "resources.json"), **change})
    assert set(bad(check_policies(site))) == {("allow-list", "FAILED")}


def test_other_classes_of_the_sites_own_are_no_fault(site: Kit) -> None:
    listed = [*ALLOWED_CLASSES, "hospital.Own", "nvflare.app_common.workflows.fedavg.FedAvg"]
    write(site, "resources.json", {**read(site, "resources.json"), "class_allow_list": listed})
    assert bad(check_policies(site)) == []


def test_what_nvflare_would_tell_the_server_of_resources_is_named(site: Kit) -> None:
    write(site, "resources.json", {**read(site, "resources.json"), "data_root": "/data/patients"})
    (finding,) = [item for item in check_policies(site) if item.level != "ok"]
    assert (finding.check, finding.level) == ("registration", "warning")
    assert "data_root" in finding.text
    assert "/data/patients" not in finding.text


OURS = {"path": "consilia.flare.outgoing.OutgoingFilter"}
OTHER = {"path": "nvflare.app_common.filters.exclude_vars.ExcludeVars"}


@pytest.mark.parametrize(
    ("filters", "level"),
    [
        ([OURS], None),
        ([OURS, OTHER], None),
        ([{**OURS, "direction": "OUT"}], None),
        ([OTHER, OURS], "FAILED"),
        ([{**OURS, "direction": "in"}], "FAILED"),
        ([], "FAILED"),
        ([{"path": "no.such.Filter"}], "FAILED"),
    ],
)
def test_the_filter_must_come_first_in_every_scope(site: Kit, filters: list[Any], level: str | None) -> None:
    scopes = [{"name": "a", "task_result_filters": [OURS]}, {"name": "b", "task_result_filters": filters}]
    write(site, "privacy.json", {"scopes": scopes, "default_scope": "a"})
    assert bad(check_policies(site)) == ([] if level is None else [("filter of what leaves", level)])


@pytest.mark.parametrize(
    ("rights", "expected"),
    [
        ({}, []),
        ({"byoc": "o:hospital_1", "cat": "o:site"}, []),
        ({"cat": "any"}, [("rights", "FAILED")]),
        ({"operate": "any", "shell_commands": "any"}, [("rights", "FAILED")] * 2),
        ({"byoc": "any"}, [("rights", "FAILED")]),
        ({"view": "nonsense"}, [("rights", "FAILED")]),
    ],
)
def test_rights_of_strangers(site: Kit, rights: dict[str, str], expected: list[tuple[str, str]]) -> None:
    policy = read(site, "authorization.json")
    policy["permissions"]["lead"].update(rights)
    write(site, "authorization.json", policy)
    assert bad(check_policies(site)) == expected


def test_a_damaged_file_is_a_finding(site: Kit) -> None:
    (site.local / "resources.json").write_text("{")
    (finding,) = readable(site)
    assert finding.level == "FAILED"
    assert "resources.json" in finding.text


def test_at_the_server_submitters_must_be_able_to_follow(server: Kit) -> None:
    assert bad(check_policies(server)) == []
    (server.local / "authorization.json").unlink()
    assert bad(check_policies(server)) == [("rights", "warning")]


# Certificates: those of the kit are made now and valid for 360 days.
@pytest.mark.parametrize(
    ("days", "level"), [(-2, "FAILED"), (1, None), (300, None), (345, "warning"), (2 * 365, "FAILED")]
)
def test_certificates_are_valid_now(site: Kit, days: int, level: str | None) -> None:
    found = bad(check_certificates(site, datetime.now(UTC) + timedelta(days=days)))
    names = ("certificate client.crt", "certificate rootCA.pem")
    assert found == ([] if level is None else [(name, level) for name in names])


def test_the_private_key_is_private_and_the_certificates_own(site: Kit) -> None:
    key = site.folder / "startup" / "client.key"
    key.chmod(0o644)
    assert bad(check_certificates(site)) == [("private key", "FAILED")]
    key.write_bytes((provisioned() / "localhost" / "startup" / "server.key").read_bytes())
    key.chmod(0o600)
    (finding,) = [item for item in check_certificates(site) if item.level != "ok"]
    assert "do not belong together" in finding.text
    key.unlink()
    (site.folder / "startup" / "rootCA.pem").write_text("no certificate")
    assert bad(check_certificates(site)) == [("certificate rootCA.pem", "FAILED"), ("private key", "FAILED")]


@contextmanager
def listening(kit: Kit, of: str = "localhost", *, authority: Path | None = None, silent: bool = False) -> Iterator[Kit]:
    """The kit, told of a TLS server on the loopback interface with the certificate of participant ``of``."""
    startup = provisioned() / of / "startup"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority or startup / "rootCA.pem")
    (certificate,) = startup.glob("*.crt")
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            plain, _ = door.accept()
            # That the client goes away is the test's business.
            with plain, suppress(OSError):
                heard = plain if silent else context.wrap_socket(plain, server_side=True)
                while heard.recv(4096):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = door.getsockname()[1]
        told = site_startup(kit, {"target": f"localhost:{port}", "scheme": "tcp"})
        yield told
        thread.join(10)
        assert not thread.is_alive()


def site_startup(kit: Kit, service: dict[str, str]) -> Kit:
    path = kit.folder / "startup" / "fed_client.json"
    content = json.loads(path.read_text())
    content["servers"][0]["service"] = service
    path.write_text(json.dumps(content))
    return open_kit(kit.folder)


def test_the_real_server_is_recognised(site: Kit) -> None:
    with listening(site) as kit:
        finding = check_server_reached(kit)
    assert finding.level == "ok", finding
    assert "is localhost" in finding.text


def test_another_participant_in_the_servers_place_is_not_the_server(site: Kit) -> None:
    with listening(site, "example-hospital") as kit:
        finding = check_server_reached(kit)
    assert (finding.level, "is 'example-hospital', expected 'localhost'" in finding.text) == ("FAILED", True)


def test_a_server_of_another_project_is_refused(site: Kit) -> None:
    # Not the authority that signed the server's certificate.
    startup = site.folder / "startup"
    (startup / "rootCA.pem").write_bytes((startup / "client.crt").read_bytes())
    with listening(site) as kit:
        finding = check_server_reached(kit)
    assert (finding.level, "is not the project's" in finding.text) == ("FAILED", True)


def test_a_server_that_does_not_take_the_sites_certificate_is_found_out(site: Kit) -> None:
    # TLS 1.3 lets the client believe that all is well until it reads.
    stranger = provisioned() / "localhost" / "startup" / "server.crt"
    with listening(site, authority=stranger) as kit:
        finding = check_server_reached(kit)
    assert (finding.level, "mutual TLS fails" in finding.text) == ("FAILED", True)


def test_silence_is_not_waited_for(site: Kit) -> None:
    with listening(site, silent=True) as kit:
        finding = check_server_reached(kit, seconds=0.2)
    assert (finding.level, "does not answer within 0.2 s" in finding.text) == ("FAILED", True)
    assert "firewall" in finding.todo


def test_a_program_that_hangs_up_is_not_the_server(site: Kit) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:

        def hang_up() -> None:
            plain, _ = door.accept()
            plain.recv(1)  # what is left unread makes the system reset the connection
            plain.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        kit = site_startup(site, {"target": f"localhost:{door.getsockname()[1]}", "scheme": "tcp"})
        finding = check_server_reached(kit)
        thread.join(10)
    assert (finding.level, "cuts the connection" in finding.text) == ("FAILED", True)


def test_without_a_server_or_a_network_it_is_a_warning(site: Kit) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    finding = check_server_reached(site_startup(site, {"target": f"localhost:{port}", "scheme": "tcp"}))
    assert (finding.level, "Connection refused" in finding.text) == ("warning", True)


def test_the_servers_port_is_free_or_its_own(server: Kit) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        kit = Kit(server.folder, "server", server.name, "localhost", port)
        assert check_port(kit).level == "FAILED"
    assert "is free" in check_port(kit).text
    # A process that looks like NVFlare's server of this kit.
    words = ["nvflare.private.fed.app.server.server_train", "-m", str(server.folder)]
    with subprocess.Popen([sys.executable, "-c", "input()", *words], stdin=subprocess.PIPE) as process:
        finding = check_port(kit)
        process.communicate(b"\n")
    assert (finding.level, f"(process {process.pid})" in finding.text) == ("ok", True)


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
    other = tmp_path / "other" / "app" / "config" / path.name
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps(content))
    approve(site.folder, job)
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


def test_only_the_jobs_role_is_read_and_a_missing_one_named(site: Kit, job: Path, tmp_path: Path) -> None:
    path = site.local / "site.yaml"
    config, known = load_site_config(path), read_job(job)
    (finding,) = check_data(site, config, known)
    assert (finding.check, finding.text) == ("data of role diagnosis", "40 cases")
    (tmp_path / "data" / "visits.csv").unlink()
    (finding,) = check_data(site, config, known)
    assert (finding.level, "visits.csv" in finding.text) == ("FAILED", True)
    path.write_text(path.read_text().replace("diagnosis:", "prognosis:"))
    (finding,) = check_data(site, load_site_config(path), known)
    assert (finding.level, "needs role 'diagnosis', here are ['prognosis']" in finding.text) == ("FAILED", True)


def test_disk_and_memory_are_compared_with_the_jobs_model(site: Kit) -> None:
    assert bad(check_machine(site, None, 0)) == []
    assert bad(check_machine(site, None, 2**60)) == [("disk", "FAILED"), ("memory", "warning")]


def test_the_state_folder_is_the_owners_alone(site: Kit, tmp_path: Path) -> None:
    config = load_site_config(site.local / "site.yaml")
    assert "will be made" in list(check_machine(site, config, 0))[-1].text
    config.state_dir.mkdir()
    config.state_dir.chmod(0o755)
    assert bad(check_machine(site, config, 0)) == [("state", "warning")]
    config.state_dir.chmod(0o700)
    assert bad(check_machine(site, config, 0)) == []
    config.state_dir.rmdir()
    config.state_dir.write_text("a file")
    assert bad(check_machine(site, config, 0)) == [("state", "FAILED")]


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
