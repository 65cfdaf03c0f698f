"""The way from a kit to its server: mutual TLS, as NVFlare makes it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any

from consilia.deploy.kit import Kit

_LISTENING_SECONDS = 1.0


def handshake(kit: Kit, seconds: float) -> str:
    """Shake hands with the server by a site's or an administrator's certificate.

    Returns:
        The server's name as its certificate has it.

    Raises:
        ssl.SSLError: the certificates do not go together.
        OSError: the server cannot be reached, or does not answer in time.
    """
    startup = kit.folder / "startup"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # NVFlare's certificates are bound to a name of the project, which need not be the host's.
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.load_verify_locations(startup / "rootCA.pem")
    context.load_cert_chain(startup / "client.crt", startup / "client.key")
    # One connection that goes through with TLS: a server of scheme tcp accepts no other while it waits for a handshake.
    with (
        socket.create_connection((kit.host, kit.port), timeout=seconds) as plain,
        context.wrap_socket(plain) as secure,
    ):
        # In TLS 1.3 a server that refuses the client's certificate says so only now.
        secure.settimeout(min(seconds, _LISTENING_SECONDS))
        with contextlib.suppress(TimeoutError):
            secure.recv(1)
        subject: Any = (secure.getpeercert() or {}).get("subject", ())
        return str(dict(pair for part in subject for pair in part).get("commonName", ""))
