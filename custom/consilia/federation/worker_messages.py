"""What passes between a run's process and those of its sites on the same machine: JSON, and tensors as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from safetensors.torch import load
from torch import Tensor

from consilia.core import errors
from consilia.core.errors import ConsiliaError, RunFailed
from consilia.core.tensor_files import pieces

TENSORS = "tensors"
"""Whether tensors follow."""


def as_bytes(tensors: Mapping[str, Tensor] | None) -> bytes | None:
    """Tensors as they are sent; None where there are none."""
    return None if tensors is None else b"".join(pieces(tensors))


def send(connection: Connection, content: Mapping[str, Any], tensors: bytes | None = None) -> None:
    """Send a message."""
    connection.send_bytes(json.dumps({**content, TENSORS: tensors is not None}).encode())
    if tensors is not None:
        connection.send_bytes(tensors)


def receive(connection: Connection) -> tuple[dict[str, Any], dict[str, Tensor] | None]:
    """The next message. Raises EOFError, or OSError, where the other process has ended."""
    content = json.loads(connection.recv_bytes())
    return content, load(connection.recv_bytes()) if content.pop(TENSORS) else None


def error_content(error: ConsiliaError | OSError) -> dict[str, Any]:
    """An error as a message: :func:`raised` makes the same one of it."""
    if isinstance(error, OSError):
        return {"raised": "OSError", "arguments": [error.errno, error.strerror or str(error), error.filename]}
    return {"raised": type(error).__name__, "arguments": [str(error)]}


def raised(content: Mapping[str, Any]) -> Exception:
    """The error that :func:`error_content` has told of."""
    name, arguments = content["raised"], content["arguments"]
    if name == "OSError":
        number, text, file = arguments
        return OSError(number, text, file) if number is not None else OSError(text)
    kind = getattr(errors, name, RunFailed)
    return kind(*arguments) if issubclass(kind, ConsiliaError) else RunFailed(*arguments)
