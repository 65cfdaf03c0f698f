"""A linear classifier of two classes, whose gradient is written out, and cases for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from consilia.core.determinism import derive_seed
from consilia.data.dataset import DatasetSplits, SiteData, Split, empty_split
from consilia.methods import TrainingConfig

SGD = TrainingConfig(local_epochs=1, batch_size=4, learning_rate=0.1, momentum=0.0, weight_decay=0.0, device="cpu")
RATE, DECAY = 0.1, 0.99
"""Of ``SGD``: in its first round, and from one to the next."""

State = dict[str, Tensor]


def data(cases: int = 4, *, test_only: bool = False) -> SiteData:
    """Cases (N, 2) that the sign of the first input tells apart."""
    order = torch.Generator().manual_seed(3)
    inputs = torch.randn(cases, 2, generator=order)
    split = Split(inputs, (inputs[:, 0] > 0).long(), tuple(f"case-{i}" for i in range(cases)))
    none = empty_split(inputs)
    return SiteData("a", {"r": DatasetSplits(("x", "y"), none if test_only else split, none, split)})


def linear() -> nn.Module:
    """The classifier, always with the same weights."""
    torch.manual_seed(0)
    return nn.Linear(2, 2)


def loss(weights: State, split: Split) -> float:
    """The cross-entropy, written out."""
    shares = (split.inputs @ weights["weight"].T + weights["bias"]).softmax(dim=1)
    return float(-shares[torch.arange(len(split)), split.labels].log().mean())


def gradient(weights: State, split: Split) -> State:
    """Of the cross-entropy, written out: softmax minus one-hot, over the cases."""
    inputs = split.inputs
    shares = (inputs @ weights["weight"].T + weights["bias"]).softmax(dim=1)
    error = (shares - nn.functional.one_hot(split.labels, 2)) / len(inputs)
    return {"weight": error.T @ inputs, "bias": error.sum(dim=0)}


def batches(split: Split, round_number: int, size: int = 4, epochs: int = 1) -> list[Split]:
    """The batches of a round at site a with seed 1, as every method draws them."""
    order = torch.Generator().manual_seed(derive_seed(1, "batches", "a", round_number))
    found = []
    for _ in range(epochs):
        for index in torch.randperm(len(split), generator=order).split(size):
            found.append(Split(split.inputs[index], split.labels[index], ("",) * len(index)))
    return found


def close(found: State, expected: State) -> None:
    """Both have the same names and nearly the same values."""
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
