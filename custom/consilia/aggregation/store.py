"""Accepted updates wait on disk: memory stays that of one chunk however many sites take part.

A spooled update is an ordinary safetensors file. Chunks are read with plain reads into a fresh buffer rather than by
memory map, because mapped pages count as the process's memory until they are unmapped.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from consilia.core.errors import AggregationError, ConfigError
from consilia.core.tensor_files import DTYPES, overwrite_tensors


class SpooledUpdate(Mapping[str, Tensor]):
    """The tensors of one update on disk, by name, each read only when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        self._entries = header
        self._start = 8 + length
        self._handle: int | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shape(name)
        return self.chunk(name, 0, shape.numel()).reshape(shape)

    def shape(self, name: str) -> torch.Size:
        """The tensor's shape, without reading it."""
        return torch.Size(self._entries[name]["shape"])

    def dtype(self, name: str) -> torch.dtype:
        """The tensor's dtype, without reading it."""
        return DTYPES[self._entries[name]["dtype"]]

    def chunk(self, name: str, start: int, stop: int, room: Tensor | None = None) -> Tensor:
        """Elements start..stop of the flattened tensor; with ``room``, at least as many, they lie in it."""
        dtype = self.dtype(name)
        buffer = torch.empty(stop - start, dtype=dtype) if room is None else room[: stop - start]
        if stop > start:
            place = self._start + self._entries[name]["data_offsets"][0] + start * dtype.itemsize
            wanted: Any = memoryview(buffer.view(torch.uint8).numpy())  # type: ignore[arg-type]
            handle = os.open(self.path, os.O_RDONLY) if self._handle is None else self._handle
            try:
                if os.preadv(handle, [wanted], place) != len(wanted):
                    raise AggregationError(f"{self.path} ends inside tensor {name!r}")
            finally:
                if handle != self._handle:
                    os.close(handle)
        return buffer

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Inside the block the file is open, so that a chunk is one call of the system; several threads may read."""
        self._handle = os.open(self.path, os.O_RDONLY)
        try:
            yield
        finally:
            os.close(self._handle)
            self._handle = None


class UpdateSpool(Mapping[str, SpooledUpdate]):
    """The accepted updates of one round, by site name, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._updates: dict[str, SpooledUpdate] = {}

    def add(self, site: str, tensors: Mapping[str, Tensor]) -> None:
        """Write one site's tensors; a site answers at most once per round."""
        if site in self._updates:
            raise ConfigError(f"site {site!r} has already answered in this round")
        # Numbered, not named after the site: a site's name is not to be trusted as a file name.
        path = self.folder / f"{len(self._updates):05d}.safetensors"
        overwrite_tensors(path, tensors)
        self._updates[site] = SpooledUpdate(path)

    def clear(self) -> None:
        """Forget the round's updates; their files are written over in the next."""
        self._updates.clear()

    def remove(self) -> None:
        """Delete the folder."""
        self._updates.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._updates))

    def __len__(self) -> int:
        return len(self._updates)

    def __getitem__(self, site: str) -> SpooledUpdate:
        return self._updates[site]
