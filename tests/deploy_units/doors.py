"""A TLS server as a kit expects it."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from consilia.deploy.kit import Kit, open_kit
from tests.deploy_units.kits import provisioned


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
