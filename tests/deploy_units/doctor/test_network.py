"""The doctor on certificates and the way to the server, tried on real TLS servers with provisioned certificates."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from consilia.deploy.doctor.network import check_certificates, check_port, check_server_reached, check_transport
from consilia.deploy.kit import FILES, Kit
from tests.deploy_units.doors import listening, site_startup
from tests.deploy_units.kits import bad, done, provisioned, site_yaml


@pytest.fixture
def site(site: Kit, tmp_path: Path) -> Kit:
    done(site, site_yaml(tmp_path / "data"))
    return site


@pytest.fixture
def server(server: Kit) -> Kit:
    done(server)
    return server


# The kit's certificates are made when it is provisioned, and are valid for 360 days.
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


@pytest.mark.parametrize("kind", ["site", "server"])
def test_a_kit_provisioned_for_tcp_is_warned_of(request: pytest.FixtureRequest, kind: str) -> None:
    kit: Kit = request.getfixturevalue(kind)
    assert check_transport(kit).level == "ok"
    file = kit.folder / "startup" / FILES[kit.kind]
    file.write_text(file.read_text().replace('"grpc"', '"tcp"'))
    finding = check_transport(kit)
    assert (finding.level, "scheme: grpc in project.yml" in finding.todo) == ("warning", True)


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
