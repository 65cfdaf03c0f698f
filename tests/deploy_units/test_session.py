"""The administrator's session where there is no federation: kits, ports and certificates that do not fit."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from consilia.core.errors import ConfigError
from consilia.deploy.kit import open_kit
from consilia.deploy.session import _certificate_problem, open_session


def write_admin_kit(folder: Path, port: int) -> Path:
    (folder / "startup").mkdir(parents=True)
    admin = {"username": "lead@consortium.org", "host": "localhost", "port": port}
    (folder / "startup" / "fed_admin.json").write_text(json.dumps({"admin": admin}))
    return folder


def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_folder_that_is_no_kit_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="is no startup kit"), open_session(tmp_path):
        pass


def test_a_hospitals_kit_is_refused(tmp_path) -> None:
    (tmp_path / "startup").mkdir()
    content = {"servers": [{"service": {"target": "localhost:1"}}], "client": {"fqsn": "hospital-1"}}
    (tmp_path / "startup" / "fed_client.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"kit of the client hospital-1: .* administrator"), open_session(tmp_path):
        pass


def test_a_server_that_does_not_listen_is_named_at_once(tmp_path) -> None:
    port = unused_port()
    kit = write_admin_kit(tmp_path / "kit", port)
    started = time.monotonic()
    with pytest.raises(ConfigError, match=f"localhost:{port} cannot be reached"), open_session(kit):
        pass
    assert time.monotonic() - started < 5


# ---- certificates: a federation's own, made here ---------------------------------------------------------------------


class Authority:
    """A certificate authority that writes what a startup kit holds."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign("authority", self.key, authority=True)

    def write(self, startup: Path, name: str) -> None:
        startup.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        (startup / "rootCA.pem").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        certificate = self._sign(name, key, authority=False)
        (startup / "client.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        form = serialization.PrivateFormat.TraditionalOpenSSL
        (startup / "client.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))

    def _sign(self, name: str, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        draft = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        draft = draft.not_valid_before(now - day).not_valid_after(now + day)
        draft = draft.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        return draft.sign(self.key, hashes.SHA256())


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Authority, int]]:
    """A server that asks for a certificate of its federation, as NVFlare's does, and then waits."""
    authority, folder = Authority(), tmp_path_factory.mktemp("server")
    authority.write(folder, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / "rootCA.pem")
    context.load_cert_chain(folder / "client.crt", folder / "client.key")
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        while not over.is_set():
            try:
                plain, _ = listener.accept()
                with plain, context.wrap_socket(plain, server_side=True) as secured:
                    secured.recv(1)
            except OSError:
                continue

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield authority, listener.getsockname()[1]
        over.set()
        thread.join()


def test_certificates_of_one_federation_go_together(ours, tmp_path) -> None:
    authority, port = ours
    kit = write_admin_kit(tmp_path, port)
    authority.write(kit / "startup", "lead@consortium.org")
    assert _certificate_problem(open_kit(kit)) is None


def test_a_server_of_another_federation_is_told_by_its_certificate(ours, tmp_path) -> None:
    kit = write_admin_kit(tmp_path, ours[1])
    Authority().write(kit / "startup", "lead@consortium.org")
    assert _certificate_problem(open_kit(kit)) == "CERTIFICATE_VERIFY_FAILED"


def test_a_kit_that_the_server_refuses_is_told_by_its_alert(ours, tmp_path) -> None:
    authority, port = ours
    kit = write_admin_kit(tmp_path, port)
    Authority().write(kit / "startup", "lead@consortium.org")
    authority.write(tmp_path / "true", "someone")
    # It knows the true server, and yet shows a certificate that another federation made.
    (kit / "startup" / "rootCA.pem").write_bytes((tmp_path / "true" / "rootCA.pem").read_bytes())
    reason = _certificate_problem(open_kit(kit))
    assert reason is not None
    assert "ALERT" in reason
