"""What a site's data look like once loaded: three splits of cases in memory, and a fingerprint naming no patient."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Cases of one split: ``inputs`` (N, ...) float32, preprocessed; ``labels`` (N,) int64; ids stay at the site."""

    inputs: Tensor
    labels: Tensor
    case_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.inputs) == len(self.labels) == len(self.case_ids):
            raise ValueError(
                f"a split needs one label and one id per case, got {len(self.inputs)} inputs, "
                f"{len(self.labels)} labels, {len(self.case_ids)} ids"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the given cases."""
        return self.inputs[indices], self.labels[indices]


@dataclass(frozen=True)
class SiteData:
    """One site's data for one dataset role. An evaluator (external test site) has cases in ``test`` only."""

    site: str
    role: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def is_evaluator(self) -> bool:
        return len(self.train) == 0

    def split(self, name: str) -> Split:
        """The split called ``train``, ``validation`` or ``test``."""
        if name not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {name!r}")
        found: Split = getattr(self, name)
        return found

    def fingerprint(self) -> str:
        """SHA-256 over shapes, labels and preprocessed inputs: tells whether two runs saw the same data, no more."""
        digest = hashlib.sha256()
        for name in SPLITS:
            split = self.split(name)
            for tensor in (split.inputs, split.labels):
                digest.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def empty_split(like: Tensor) -> Split:
    """A split without cases whose inputs have the per-case shape of ``like`` (N, ...)."""
    return Split(like.new_zeros((0, *like.shape[1:])), torch.zeros(0, dtype=torch.int64), ())
