"""Local training written out: plain loops of SGD with momentum and weight decay, in the documented order of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from consilia.core.determinism import derive_seed
from consilia.data.dataset import DatasetSplits, SiteData, Split, empty_split
from consilia.methods import Client, TrainingConfig
from consilia.models.mlp import MLP
from tests.methods import support

RATE, MOMENTUM, DECAY, EPOCHS, SIZE = 0.1, 0.9, 0.1, 2, 4
TRAINING = TrainingConfig(
    local_epochs=EPOCHS, batch_size=SIZE, learning_rate=RATE, momentum=MOMENTUM, weight_decay=DECAY, device="cpu"
)
"""A decay that moves whatever it reaches."""

NAMES = ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"]
BODY, HEAD = NAMES[:2], NAMES[2:]


def site_data(cases: int = 11, classes: int = 3, *, test_only: bool = False, seed: int = 3) -> SiteData:
    """Eleven cases of three classes at site "a"."""
    inputs = torch.randn(cases, 5, generator=torch.Generator().manual_seed(seed))
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long() * (classes > 2)
    split, none = Split(inputs, labels, tuple(f"case-{i}" for i in range(cases))), empty_split(inputs)
    names = tuple("xyz"[:classes])
    return SiteData("a", {"diagnosis": DatasetSplits(names, none if test_only else split, none, split)})


def network(classes: int = 3) -> MLP:
    """5 - 8 - C."""
    torch.manual_seed(0)
    return MLP(5, classes, hidden=[8])


def client_of(
    method: str,
    data: SiteData | None = None,
    model: nn.Module | None = None,
    training: TrainingConfig = TRAINING,
    **own,
) -> Client:
    """A site's half, with the network and the data above."""
    data = data or site_data()
    model = network(data.num_classes) if model is None else model
    return support.client_of({"method": method, **own}, model, data, training)


def orders(cases: int, number: int = 1, purpose: str = "", epochs: int = EPOCHS) -> Iterator[Tensor]:
    """Indices of each batch of a round."""
    parts = [*((purpose,) if purpose else ()), "a", number]
    order = torch.Generator().manual_seed(derive_seed(1, "batches", *parts))
    for _ in range(epochs):
        yield from torch.randperm(cases, generator=order).split(SIZE)


def sgd(
    model: nn.Module,
    names: Sequence[str],
    loss_of: Callable[[Tensor], Tensor],
    batches: Iterator[Tensor],
    number: int = 1,
) -> None:
    """Steps on the named parameters: v <- m v + g + d p (v <- g + d p in the first), p <- p - rate v."""
    parameters = [dict(model.named_parameters())[name] for name in names]
    velocity: list[Tensor] | None = None
    for indices in batches:
        slopes = torch.autograd.grad(loss_of(indices), parameters)
        with torch.no_grad():
            moved = [slope + DECAY * p for slope, p in zip(slopes, parameters, strict=True)]
            velocity = moved if velocity is None else [MOMENTUM * v + m for v, m in zip(velocity, moved, strict=True)]
            for parameter, v in zip(parameters, velocity, strict=True):
                parameter -= RATE * 0.99 ** (number - 1) * v


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of log sum exp z - z_y."""
    return (logits.exp().sum(1).log() - logits[torch.arange(len(labels)), labels]).mean()


def equal(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """To float32."""
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)
