"""Seeds per (run, site, round), and the digest by which two runs are compared.

Randomness is local: every consumer asks for its own generator by purpose, and no global generator is relied on
except inside :func:`seeded`, which restores it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

Buffer = bytes | memoryview

FILL = "fill_uninitialized_memory"  # a property that torch sets on its module behind the type checker's back


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. ``derive_seed(run_seed, "train", site, round)``.

    SHA-256 of the parts, so that neighbouring seeds are unrelated and the value is the same in every process
    (Python's ``hash`` is salted per process).
    """
    text = "\x1f".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator seeded for one purpose."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed torch's global generators inside the block (for dropout and parameter initialisation), then restore them."""
    with plainly_seeded(derive_seed(seed, *purpose)):
        yield


@contextmanager
def plainly_seeded(seed: int) -> Iterator[None]:
    """The same with ``torch.manual_seed(seed)`` itself, for numbers that another program draws, too."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread and deterministic algorithms inside the block: results must not depend on how many cores are free."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    fill = bool(getattr(torch.utils.deterministic, FILL))
    # cuBLAS reads this when its handle is created; without it deterministic matrix products raise on a GPU.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(1)
    # Some GPU operations (backward of bilinear upsampling, for one) have no deterministic form: a warning must do.
    # torch.use_deterministic_algorithms would say the same, and load torch's compiler to tell it, too: a second and
    # 70 MB in every process.
    torch.set_deterministic_debug_mode("warn" if torch.cuda.is_available() else "error")
    # Filling fresh memory would show up reads of it, of which there are none here; it costs a pass over every result.
    setattr(torch.utils.deterministic, FILL, False)
    try:
        yield
    finally:
        setattr(torch.utils.deterministic, FILL, fill)
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)


def cores() -> int:
    """How many cores this process may use; 1 where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads of torch inside the block. Equal numbers of threads give equal bytes; unlike ones need not."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tensor_bytes(tensor: Tensor) -> Buffer:
    """The raw little-endian bytes of a tensor of any dtype (NumPy has no bfloat16, hence the view), not copied."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over sorted names, dtypes, shapes and bytes: equal digests mean bit-identical models."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()
