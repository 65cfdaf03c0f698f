"""Atomic file writes: a reader (or a restarted process) sees the old file or the new one, never half of either."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor


@contextmanager
def atomic_path(target: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success it replaces the target, on error it is removed.

    ``durable`` waits until the bytes are on the disk, which a loss of power asks for and a killed process does not.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(target: Path, content: bytes, *, durable: bool = True) -> None:
    """Write bytes atomically."""
    with atomic_path(target, durable=durable) as temporary:
        temporary.write_bytes(content)


def write_json(target: Path, content: Any) -> None:
    """Write JSON atomically: UTF-8, sorted keys, and no NaN (which is not JSON; undefined values are null)."""
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_bytes(target, (text + "\n").encode())


def write_tensors(
    target: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, durable: bool = True
) -> None:
    """Write named tensors as safetensors, atomically."""
    clean = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(target, save(clean, metadata=dict(metadata) if metadata else None), durable=durable)


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
