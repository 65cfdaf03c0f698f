"""What a user of a participant's machine tries who has no certificate: NVFlare's words to the port for job processes.

A script, for a process of its own: ``local_user.py PORT plain|tls NAME TARGET COMMAND [JOB_ID]`` connects as the
process NAME, gives TARGET a command in that name, and prints what comes back. Started by root it first becomes
``nobody``.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  what a host name needs, while it may be read
import os
import pwd
import socket
import ssl
import struct
import sys
import time
from typing import Any

import msgpack
from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey as Key
from nvflare.fuel.f3.cellnet.defs import MessageType
from nvflare.fuel.f3.cellnet.utils import decode_payload, encode_payload
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.sfm.constants import HandshakeKeys, Types
from nvflare.private.admin_defs import Message as Command
from nvflare.private.defs import CellChannel
from nvflare.private.fed.utils.decomposers import private_decomposers

PREFIX = struct.Struct(">IHBBHHHH")
"""Length, length of the headers, kind, reserved, flags, application, stream, sequence."""
SECONDS = 5.0


def frame(kind: int, headers: dict[str, Any] | None, payload: bytes, application: int = 0) -> bytes:
    """A frame of NVFlare's message layer."""
    head = msgpack.packb(headers) if headers else b""
    length = PREFIX.size + len(head) + len(payload)
    return PREFIX.pack(length, len(head), kind, 0, 0, application, 1, 1) + head + payload


def command(name: str, target: str, topic: str, job_id: str | None) -> bytes:
    """A command as NVFlare's server gives it."""
    flare_decomposers.register()
    private_decomposers.register()
    order = Command(topic=topic, body="")
    if job_id is not None:
        order.set_header("job_id", job_id)
    message = Message({}, order)
    encode_payload(message)
    headers = {
        **message.headers,
        **{Key.MSG_TYPE: MessageType.REQ, Key.CHANNEL: CellChannel.CLIENT_MAIN, Key.TOPIC: topic, Key.REQ_ID: "1"},
        **{Key.ORIGIN: name, Key.FROM_CELL: name, Key.DESTINATION: target, Key.TO_CELL: target},
        **{Key.REPLY_EXPECTED: True, Key.ROUTE: [(name, time.time())]},
    }
    return frame(Types.DATA, headers, b"".join(message.payload), application=1)


def next_frame(connection: socket.socket, wanted: int) -> tuple[dict[str, Any], bytes]:
    """Headers and payload of the next frame of a kind."""
    while True:
        length, header_length, kind, *_ = PREFIX.unpack(read(connection, PREFIX.size))
        rest = read(connection, length - PREFIX.size)
        if kind == wanted:
            return msgpack.unpackb(rest[:header_length]) if header_length else {}, rest[header_length:]


def answer(connection: socket.socket) -> str:
    """What comes back for the command."""
    while True:
        headers, payload = next_frame(connection, Types.DATA)
        if headers.get(Key.MSG_TYPE) == MessageType.REPLY:
            message = Message(headers, payload)
            decode_payload(message)
            body = message.payload.body if isinstance(message.payload, Command) else message.payload
            return f"{headers.get(Key.RETURN_CODE)}: {body}"


def read(connection: socket.socket, length: int) -> bytes:
    """So many bytes."""
    found = b""
    while len(found) < length:
        part = connection.recv(length - len(found))
        if not part:
            raise ConnectionError("closed")
        found += part
    return found


def become_nobody() -> None:
    """Only now: the Python that runs this may be root's own."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(pwd.getpwnam("nobody").pw_gid)
        os.setuid(pwd.getpwnam("nobody").pw_uid)


def tried(port: int, way: str, name: str, target: str, topic: str, job_id: str | None = None) -> str:
    """What came back, or which error kept it from coming."""
    order = command(name, target, topic, job_id)
    become_nobody()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("localhost", port), timeout=SECONDS) as plain:
            connection = context.wrap_socket(plain) if way == "tls" else plain
            hello = {HandshakeKeys.ENDPOINT_NAME: name, HandshakeKeys.TIMESTAMP: time.time()}
            connection.sendall(frame(Types.HELLO, None, msgpack.packb(hello)))
            next_frame(connection, Types.READY)
            # NVFlare says READY shortly before it is.
            time.sleep(0.3)
            connection.sendall(order)
            return answer(connection)
    except OSError as error:
        return f"nothing: {type(error).__name__}"


if __name__ == "__main__":
    print(tried(int(sys.argv[1]), *sys.argv[2:]))
