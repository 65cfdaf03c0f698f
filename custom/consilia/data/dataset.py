"""A site's data once loaded: datasets of three splits in memory, and a fingerprint naming no patient."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sized
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from consilia.core.task import Task
from consilia.data.augmentation import Transform
from consilia.data.preprocessing import Preprocessing

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split(Dataset[tuple[Tensor, Tensor]]):
    """Cases of one split; ids stay at the site.

    ``inputs`` (N, ...) float32, preprocessed. ``labels``: class indices (N,) int64; of a segmentation masks (N, H, W)
    uint8 as high and wide as the inputs, 1 = the structure, 0 = background; of a survival (N, 2) float64, the time of
    each case's follow-up and 1 if it ended with the event, 0 if it was censored. ``spacing`` (N, 2) float64: mm per
    pixel (rows, columns) of the input as the model sees it; None where it is not known of every case. ``patients``: of
    each case, or empty; they stay at the site as the ids do, and no fingerprint holds them. ``transform``: changes
    cases when they are taken; see :mod:`consilia.data.augmentation`.
    """

    inputs: Tensor
    labels: Tensor
    case_ids: tuple[str, ...]
    spacing: Tensor | None = None
    patients: tuple[str, ...] = ()
    transform: Transform | None = None

    def __post_init__(self) -> None:
        if not len(self.inputs) == len(self.labels) == len(self.case_ids):
            raise ValueError(
                f"a split needs one label and one id per case, got {len(self.inputs)} inputs, "
                f"{len(self.labels)} labels, {len(self.case_ids)} ids"
            )
        if len(self.patients) not in (0, len(self.case_ids)):
            raise ValueError(f"expected no patient or one per case ({len(self.case_ids)}), got {len(self.patients)}")
        if self.labels.ndim > 2 and self.labels.shape[1:] != self.inputs.shape[-2:]:
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

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Input and label (class index, mask, or time and event) of one case."""
        inputs, labels = self.batch(torch.tensor([index]))
        return inputs[0], labels[0]

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the given cases, stacked."""
        inputs, labels = self.inputs[indices], self.labels[indices]
        if self.transform is None:
            return inputs, labels
        return self.transform(inputs, labels, [self.case_ids[i] for i in indices.tolist()])

    def take(self, indices: Tensor) -> Split:
        """The cases at the given positions."""
        places = indices.tolist()
        return Split(
            self.inputs[indices],
            self.labels[indices],
            tuple(self.case_ids[i] for i in places),
            None if self.spacing is None else self.spacing[indices],
            tuple(self.patients[i] for i in places) if self.patients else (),
            self.transform,
        )

    def with_transform(self, transform: Transform | None) -> Split:
        """The same cases, changed by ``transform`` when they are taken."""
        return replace(self, transform=transform)


S = TypeVar("S", bound=Sized)


@dataclass(frozen=True)
class DatasetSplits(Generic[S]):
    """One dataset of a site. At a test-only site (external test site) it has cases in ``test`` only.

    ``class_names`` of a segmentation are the background's and the structure's, of a survival those of a censored case
    and of the event; of questions, the closed answers.
    ``preprocessing``: what the inputs were made with; None where they were not read from files.
    """

    class_names: tuple[str, ...]
    train: S
    validation: S
    test: S
    task: Task = "classification"
    preprocessing: Preprocessing | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def is_test_only(self) -> bool:
        return len(self.train) == 0

    def split(self, name: str) -> S:
        """The split called ``train``, ``validation`` or ``test``."""
        splits = dict(zip(SPLITS, (self.train, self.validation, self.test), strict=True))
        if name not in splits:
            raise ValueError(f"split must be one of {SPLITS}, got {name!r}")
        return splits[name]


@dataclass(frozen=True)
class SiteData:
    """What one site has for a run: its datasets by name.

    Most runs have one dataset; then its splits, classes and task are attributes here, too.

    Attributes:
        site: its name.
        datasets: its datasets by name.
        trained_together: names of all datasets that the run trains together, of which a site may have some; empty
            where a run has one dataset.
    """

    site: str
    datasets: Mapping[str, DatasetSplits[Split]]
    trained_together: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the only dataset. Raises ValueError where there are several."""
        if len(self.datasets) != 1:
            raise ValueError(f"site {self.site} has the datasets {sorted(self.datasets)}: choose one by its name")
        return next(iter(self.datasets))

    def dataset(self, name: str | None = None) -> DatasetSplits[Split]:
        """The dataset of that name; None: the only one."""
        return self.datasets[self.name if name is None else name]

    @property
    def train(self) -> Split:
        return self.dataset().train

    @property
    def validation(self) -> Split:
        return self.dataset().validation

    @property
    def test(self) -> Split:
        return self.dataset().test

    def split(self, name: str) -> Split:
        """The split called ``train``, ``validation`` or ``test`` of the only dataset."""
        return self.dataset().split(name)

    @property
    def num_classes(self) -> int:
        return self.dataset().num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the only dataset; where several are trained together, their names: all sites must name the same."""
        return self.trained_together or self.dataset().class_names

    @property
    def task(self) -> Task:
        """Of all its datasets."""
        (task,) = {dataset.task for dataset in self.datasets.values()}
        return task

    def cases(self, split: str) -> int:
        """Number of cases in one split of all datasets."""
        return sum(len(dataset.split(split)) for dataset in self.datasets.values())

    @property
    def is_test_only(self) -> bool:
        """Whether the site trains nothing."""
        return self.cases("train") == 0

    def fingerprint(self) -> str:
        """SHA-256 over the data: tells whether two runs saw the same, no more."""
        if not self.trained_together:
            return _fingerprint(self.dataset())
        parts = "".join(f"{name}\x1f{_fingerprint(own)}\x1e" for name, own in sorted(self.datasets.items()))
        return hashlib.sha256(parts.encode()).hexdigest()


def _fingerprint(dataset: DatasetSplits[Split]) -> str:
    """SHA-256 over shapes, labels and preprocessed inputs.

    Of other tasks than classification also over the task; of segmentation over the spacing, which decides what a
    distance is.
    """
    digest = hashlib.sha256()
    segmentation = dataset.task == "segmentation"
    if dataset.task != "classification":
        digest.update(f"{dataset.task}\x1f".encode())
    for name in SPLITS:
        split = dataset.split(name)
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
