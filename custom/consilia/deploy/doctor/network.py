"""The doctor's look outside: certificates, the clock, and the way to the server."""

from __future__ import annotations

import shutil
import socket
import ssl
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from nvflare.lighter.utils import load_crt

from consilia.deploy.doctor.findings import Finding, failed, ok, warning
from consilia.deploy.install.plan import read_policy
from consilia.deploy.kit import FILES, Kit
from consilia.deploy.tls import handshake
from consilia.flare.nvflare_internals import PARTICIPANT

SECONDS = 5.0
"""How long the server may take to answer."""
_SOON = timedelta(days=30)
_NEW_KIT = "ask the project's administrator for a new kit"


def check_certificates(kit: Kit, now: datetime | None = None) -> Iterator[Finding]:
    """Validity of the kit's certificates at ``now``, whether the key belongs to them, and who can read the key."""
    now, startup = now or datetime.now(UTC), kit.folder / "startup"
    certificate, key = startup / f"{kit.kind}.crt", startup / f"{kit.kind}.key"
    for path in (certificate, startup / "rootCA.pem"):
        yield _validity(path, now)
    mode = stat.S_IMODE(key.stat().st_mode) if key.is_file() else None
    if mode is None:
        yield failed("private key", f"{key} is missing", _NEW_KIT)
    elif mode & 0o077:
        yield failed("private key", f"{key} can be read by others (mode {mode:o})", f"chmod 600 {key}")
    else:
        yield _pair(certificate, key)


def _validity(path: Path, now: datetime) -> Finding:
    check = f"certificate {path.name}"
    try:
        found: Any = load_crt(str(path))
        start, end = found.not_valid_before_utc, found.not_valid_after_utc
    except (OSError, ValueError) as error:
        return failed(check, f"{path} cannot be read: {error}", _NEW_KIT)
    if start > now:
        return failed(check, f"valid from {start:%F %R} UTC, here it is {now:%F %R}", "set this machine's clock")
    if end < now:
        return failed(check, f"expired on {end:%F}", f"{_NEW_KIT}, or set the clock if {now:%F} is not today")
    if end - now < _SOON:
        return warning(check, f"expires on {end:%F}", _NEW_KIT)
    return ok(check, f"valid until {end:%F}")


def _pair(certificate: Path, key: Path) -> Finding:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        return failed("private key", f"{key.name} and {certificate.name} do not belong together: {error}", _NEW_KIT)
    return ok("private key", "belongs to the certificate, and only its owner can read it")


def check_clock() -> Finding:
    """Is the clock kept right? A wrong one makes good certificates invalid."""
    tool = shutil.which("timedatectl")
    synchronised = ""
    if tool is not None:
        try:
            command = [tool, "show", "--property=NTPSynchronized", "--value"]
            synchronised = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, check=True
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            synchronised = ""
    if synchronised == "yes":
        return ok("clock", "synchronised")
    here = f"{datetime.now(UTC):%F %R} UTC"
    if synchronised == "no":
        return warning("clock", f"not synchronised; here it is {here}", "switch NTP on: timedatectl set-ntp true")
    return warning("clock", f"whether it is synchronised cannot be told here; it is {here}", "compare it yourself")


def check_transport(kit: Kit) -> Finding:
    """Which of NVFlare's ways to carry messages the kit was provisioned with."""
    check = "transport"
    service = read_policy(kit.folder / "startup" / FILES[kit.kind])["servers"][0]["service"]
    if service.get("scheme") != "tcp":
        return ok(check, f"{service.get('scheme', 'grpc')}: who connects and says nothing keeps nobody out")
    text = "tcp: who connects to a server without Consilia's guard of messages, and says nothing, keeps all others out"
    return warning(check, text, "scheme: grpc in project.yml, provision anew, and hand out the kits")


def check_server_reached(kit: Kit, seconds: float = SECONDS) -> Finding:
    """From a site: does the server answer, is it the server, and does it know this site's certificate?"""
    check, where = "server", f"{kit.host}:{kit.port}"
    wanted = read_policy(kit.folder / "startup" / FILES["client"])["servers"][0].get("identity", kit.host)
    try:
        name = handshake(kit, seconds)
    except ssl.SSLCertVerificationError as error:
        text = f"{where} shows a certificate that is not the project's: {error.verify_message}"
        return failed(check, text, "check clock and certificates above; ask whether this kit is of the same project")
    except ssl.SSLError as error:
        text = f"{where} answers, but mutual TLS fails: {error.reason or error}"
        return failed(check, text, "no proxy may break TLS up on the way; else ask for a new kit")
    except OSError as error:
        return _unreached(kit, error, seconds)
    if name != wanted:
        return failed(check, f"{where} is {name!r}, expected {wanted!r}", "correct the address of the server")
    return ok(check, f"{where} is {name}, and takes this site's certificate")


def _unreached(kit: Kit, error: OSError, seconds: float) -> Finding:
    check, where = "server", f"{kit.host}:{kit.port}"
    firewall = f"let this machine open TCP connections to {kit.host} port {kit.port} (firewall, proxy)"
    if isinstance(error, TimeoutError):
        return failed(check, f"{where} does not answer within {seconds:g} s", firewall)
    if isinstance(error, ConnectionResetError):
        return failed(check, f"{where} cuts the connection: that is not NVFlare, or somebody on the way", firewall)
    if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
        return failed(check, f"{kit.host} has no address here: {error.strerror}", "put it into DNS or /etc/hosts")
    # Nobody listens there yet, or this machine has no network: whether it would work cannot be told.
    text = f"{where} could not be tried: {error.strerror or error}"
    return warning(check, text, f"look again when the server runs; if it does, {firewall}")


def check_port(kit: Kit) -> Finding:
    """At the server: is the port free, or taken by this very server?"""
    check = "port"
    running = _running(kit.folder)
    if running is not None:
        return ok(check, f"{kit.port}: this server is running (process {running})")
    try:
        with socket.create_server(("", kit.port)):
            return ok(check, f"{kit.port} is free")
    except OSError as error:
        todo = "end that program, or another server's kit on this machine; or provision another fed_learn_port"
        return failed(check, f"{kit.port} cannot be opened: {error.strerror}", todo)


def _running(folder: Path) -> int | None:
    """The process of the NVFlare participant with this kit."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(word.startswith(PARTICIPANT) for word in words) and str(folder) in words:
            return int(process.pid)
    return None
