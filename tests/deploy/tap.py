"""A TCP proxy that keeps what passes it: what a site sends, and what it is sent."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class Tap:
    """Listens on the loopback interface and hands every connection on to a port there.

    Args:
        target: the port that connections are handed on to; they are closed while nobody listens on it.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sent: list[bytearray] = []
        self._received: list[bytearray] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def sent(self) -> bytes:
        """What went through towards the target, connection by connection."""
        return b"".join(bytes(stream) for stream in self._sent)

    def received(self) -> bytes:
        """What came back."""
        return b"".join(bytes(stream) for stream in self._received)

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # A thread that is in accept() wakes up by shutdown alone.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                inner = self._listener.accept()[0]
                try:
                    outer = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    inner.close()
                    continue
                self._sent.append(bytearray())
                self._received.append(bytearray())
                for source, sink, kept in ((inner, outer, self._sent[-1]), (outer, inner, self._received[-1])):
                    threading.Thread(target=_pump, args=(source, sink, kept), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    with contextlib.suppress(OSError):  # the other direction was cut
        while data := source.recv(1 << 16):
            kept += data
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
