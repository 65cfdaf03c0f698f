"""What a site's data look like once loaded: three splits of cases in memory, and a fingerprint naming no patient."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from consilia.core.task import Task
from consilia.data.augmentation import Transform

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Cases of one split; ids stay at the site.

    ``inputs`` (N, ...) float32, preprocessed. ``labels``: class indices (N,) int64, or for segmentation masks (N, H, W)
    uint8 as high and wide as the inputs, 1 = the structure, 0 = background. ``spacing`` (N, 2) float64: mm per pixel
    (rows, columns) of the input as the model sees it; None where it is not known of every case. ``patients``: of
    each case, or empty; they stay at the site as the ids do, and no fingerprint holds them.
    """

    inputs: Tensor
    labels: Tensor
    case_ids: tuple[str, ...]
    spacing: Tensor | None = None
    patients: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.inputs) == len(self.labels) == len(self.case_ids):
            raise ValueError(
                f"a split needs one label and one id per case, got {len(self.inputs)} inputs, "
                f"{len(self.labels)} labels, {len(self.case_ids)} ids"
            )
        if len(self.patients) not in (0, len(self.case_ids)):
            raise ValueError(f"expected no patient or one per case ({len(self.case_ids)}), got {len(self.patients)}")
        if self.labels.ndim > 1 and self.labels.shape[1:] != self.inputs.shape[-2:]:
            raise ValueError(
                f"masks must be as high and wide as the inputs, {tuple(self.inputs.shape[-2:])}, "
                f"got {tuple(self.labels.shape[1:])}"
            )
        if self.spacing is not None and self.spacing.shape != (len(self.labels), 2):
            raise ValueError(
                f"spacing must be ({len(self.labels)}, 2): rows and columns of each case, "
                f"got {tuple(self.spacing.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, transform: Transform | None = None) -> tuple[Tensor, Tensor]:
        """Inputs and labels (class indices or masks) of the given cases, changed by ``transform`` if there is one."""
        inputs, labels = self.inputs[indices], self.labels[indices]
        if transform is None:
            return inputs, labels
        return transform(inputs, labels, [self.case_ids[i] for i in indices.tolist()])


@dataclass(frozen=True)
class SiteData:
    """One site's data for one dataset role. A test-only site (external test site) has cases in ``test`` only.

    ``class_names`` of a segmentation are the background's and the structure's.
    """

    site: str
    role: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    task: Task = "classification"

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def is_test_only(self) -> bool:
        return len(self.train) == 0

    def split(self, name: str) -> Split:
        """The split called ``train``, ``validation`` or ``test``."""
        if name not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {name!r}")
        found: Split = getattr(self, name)
        return found

    def fingerprint(self) -> str:
        """SHA-256 over shapes, labels and preprocessed inputs: tells whether two runs saw the same data, no more.

        For segmentation also over the task and the spacing, which decide what a distance is.
        """
        digest = hashlib.sha256()
        segmentation = self.task == "segmentation"
        if segmentation:
            digest.update(f"{self.task}\x1f".encode())
        for name in SPLITS:
            split = self.split(name)
            spacing = [split.spacing] if segmentation and split.spacing is not None else []
            for tensor in (split.inputs, split.labels, *spacing):
                digest.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def empty_split(inputs: Tensor, labels: Tensor | None = None) -> Split:
    """A split without cases, whose inputs and labels have the per-case shape and the type of the given ones.

    Without ``labels``: class indices.
    """
    none = torch.zeros(0, dtype=torch.int64) if labels is None else labels.new_zeros((0, *labels.shape[1:]))
    return Split(inputs.new_zeros((0, *inputs.shape[1:])), none, ())
