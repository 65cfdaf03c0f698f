"""Tensors as safetensors files, written piece by piece: never a second copy of a model in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from consilia.core.determinism import Buffer, tensor_bytes
from consilia.core.errors import CheckpointError, ConfigError
from consilia.core.files import atomic_path
from consilia.core.reading import open_plain

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
"""The dtype names of the safetensors format; in a file the last of these come first."""

_NAMES = list(DTYPES)
_RANKS = {dtype: rank for rank, dtype in enumerate(DTYPES.values())}


MAX_HEADER = 16 * 2**20
"""Bytes: that of a file with a hundred thousand tensors has less."""


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and its metadata.

    The header is read only if it is not larger than :data:`MAX_HEADER` and the file; the library then checks that every
    tensor lies in the file, next to the one before, before it makes room for any.

    Raises:
        CheckpointError: the file cannot be read, or is no safetensors file.
    """
    with open_plain(path, error=CheckpointError) as opened:
        size, length = os.fstat(opened.fileno()).st_size, int.from_bytes(opened.read(8), "little")
    if not 0 < length <= min(MAX_HEADER, size - 8):
        raise CheckpointError(
            f"{path} is no safetensors file: its header would have {length:,} bytes, the file has {size:,}; at most "
            f"{MAX_HEADER:,} are read"
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return tensors, file.metadata() or {}
    # The library and torch each have errors of their own for what stands in a header.
    except Exception as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from error


def write_tensors(
    target: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    durable: bool = True,
    private: bool = False,
) -> None:
    """Write named tensors as safetensors, atomically; for the options see :func:`atomic_path`."""
    with atomic_path(target, durable=durable, private=private) as temporary, temporary.open("wb") as file:
        file.writelines(pieces(tensors, metadata))


def overwrite_tensors(target: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors over a private file in place, for what is written every round and may be lost in a crash.

    Giving an old file's blocks back and taking new ones costs more than the writing itself.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.writelines(pieces(tensors, metadata))
        file.truncate()


def pieces(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Iterator[Buffer]:
    """A safetensors file's bytes, piece by piece: the header, then every tensor as it lies in memory.

    The same bytes as safetensors' own ``save`` makes, which needs them all in memory once more.

    Raises:
        ConfigError: a tensor's dtype has no name in the format.
    """
    order = sorted(tensors, key=lambda name: (-_rank(name, tensors[name]), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name in order:
        stop = start + tensors[name].nbytes
        shape, dtype = list(tensors[name].shape), _NAMES[_rank(name, tensors[name])]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        yield tensor_bytes(tensors[name])


def _rank(name: str, tensor: Tensor) -> int:
    # Wide types come first in the file, so that every tensor is aligned.
    if tensor.dtype not in _RANKS:
        raise ConfigError(f"tensor {name!r} is {tensor.dtype}, which a safetensors file does not hold")
    return _RANKS[tensor.dtype]
