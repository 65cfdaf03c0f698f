"""What a loaded site holds: shapes that must agree, and fingerprints worked out with hashlib."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
import torch
from torch.utils.data import DataLoader

from consilia.core.task import Task
from consilia.data.dataset import SPLITS, DatasetSplits, SiteData, Split, empty_split

INPUTS = torch.arange(2 * 1 * 3 * 4, dtype=torch.float32).reshape(2, 1, 3, 4)
MASKS = torch.tensor([[[0, 1, 1, 0]] * 3, [[0] * 4] * 3], dtype=torch.uint8)
MM = torch.tensor([[0.5, 0.25], [0.5, 0.25]], dtype=torch.float64)


def site(split: Split, task: Task) -> SiteData:
    none = empty_split(split.inputs, split.labels)
    return SiteData("a", {"r": DatasetSplits(("x", "y"), split, none, none, task)})


def digest(split: Split, first: bytes, with_spacing: bool) -> str:
    parts = first
    for name in SPLITS:
        tensors = [split.inputs, split.labels] if name == "train" else [split.inputs[:0], split.labels[:0]]
        if name == "train" and with_spacing and split.spacing is not None:
            tensors.append(split.spacing)
        for tensor in tensors:
            parts += f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode() + tensor.numpy().tobytes()
    return hashlib.sha256(parts).hexdigest()


def test_a_classification_fingerprint_is_of_inputs_and_labels_alone() -> None:
    split = Split(INPUTS, torch.tensor([0, 1]), ("a", "b"), MM)
    assert site(split, "classification").fingerprint() == digest(split, b"", False)


def test_a_segmentation_fingerprint_holds_task_and_spacing() -> None:
    split = Split(INPUTS, MASKS, ("a", "b"), MM)
    found = site(split, "segmentation").fingerprint()
    assert found == digest(split, b"segmentation\x1f", True)
    without = site(Split(INPUTS, MASKS, ("a", "b")), "segmentation").fingerprint()
    other = site(Split(INPUTS, MASKS, ("a", "b"), MM * 2), "segmentation").fingerprint()
    assert len({found, without, other}) == 3


def test_patients_are_in_no_fingerprint_and_one_per_case() -> None:
    labels = torch.tensor([0, 1])
    named = Split(INPUTS, labels, ("a", "b"), patients=("p", "q"))
    assert site(named, "classification").fingerprint() == digest(named, b"", False)
    assert empty_split(INPUTS).patients == ()
    with pytest.raises(ValueError, match=r"no patient or one per case \(2\), got 1"):
        Split(INPUTS, labels, ("a", "b"), patients=("p",))


def test_empty_split_keeps_shapes_and_types() -> None:
    none = empty_split(INPUTS, MASKS)
    assert none.inputs.shape == (0, 1, 3, 4)
    assert (none.labels.shape, none.labels.dtype) == ((0, 3, 4), torch.uint8)
    assert empty_split(INPUTS).labels.dtype == torch.int64


def test_batch_gives_masks() -> None:
    inputs, masks = Split(INPUTS, MASKS, ("a", "b")).batch(torch.tensor([1]))
    assert inputs.tolist() == INPUTS[1:].tolist()
    assert masks.tolist() == MASKS[1:].tolist()


def test_a_split_is_a_torch_dataset_and_a_transform_changes_what_is_taken() -> None:
    split = Split(INPUTS, torch.tensor([0, 1]), ("a", "b"))
    seen = []

    def double(inputs: torch.Tensor, labels: torch.Tensor, cases: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        seen.extend(cases)
        return 2 * inputs, labels

    changed = split.with_transform(double)
    images, labels = next(iter(DataLoader(changed, batch_size=2)))
    assert (images.tolist(), labels.tolist(), seen) == ((2 * INPUTS).tolist(), [0, 1], ["a", "b"])
    assert changed[1][0].tolist() == (2 * INPUTS[1]).tolist()
    assert split[1][0].tolist() == changed.inputs[1].tolist() == INPUTS[1].tolist()


@pytest.mark.parametrize(
    ("labels", "spacing", "message"),
    [
        (MASKS[:, :2], None, r"as high and wide as the inputs, \(3, 4\), got \(2, 4\)"),
        (MASKS, MM[:1], r"spacing must be \(2, 2\).* got \(1, 2\)"),
        (MASKS[:1], None, "one label and one id per case"),
    ],
)
def test_what_does_not_agree(labels: torch.Tensor, spacing: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Split(INPUTS, labels, ("a", "b"), spacing)
