"""FLamby's six strategies as a plain loop over vectors, for its two benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count

import torch
from torch import Tensor

from consilia.core.determinism import derive_seed

Data = Mapping[str, tuple[Tensor, Tensor]]
"""Inputs (N, F) and truth of each site."""

Gradient = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of the loss by the weights, from the weights, a batch's inputs and its truth."""


def plain_batches(seed: int, site: str, cases: int, size: int) -> Iterator[Tensor]:
    """Batches of passes without end, the last one of a pass as small as it comes out."""
    for number in count():
        order = torch.Generator().manual_seed(derive_seed(seed, "batches", site, "pass", number))
        yield from torch.randperm(cases, generator=order).split(size)


def plain_rounds(
    label: str,
    x: Tensor,
    data: Data,
    order: Mapping[str, Iterator[Tensor]],
    gradient: Gradient,
    *,
    rounds: int,
    steps: int,
    rate: float,
    server_rate: float,
    mu: float,
) -> Tensor:
    """The weights after so many rounds of so many steps at every site, from weights ``x``; ``order`` gives batches."""
    share = {name: len(truth) / sum(len(own[1]) for own in data.values()) for name, (_, truth) in data.items()}
    m, v, server_control = (torch.zeros_like(x) for _ in range(3))
    control = {name: torch.zeros_like(x) for name in data}
    for _ in range(rounds):
        mean, moved = torch.zeros_like(x), torch.zeros_like(x)
        for name, (inputs, truth) in data.items():
            y = x.clone()
            for _ in range(steps):
                batch = next(order[name])
                step = gradient(y, inputs[batch], truth[batch])
                if label == "fedprox":
                    step += mu * (y - x)
                if label == "scaffold":
                    step += server_control - control[name]
                y -= rate * step
            mean += share[name] * y
            change = (x - y) / (steps * rate) - server_control
            control[name] += change
            moved += share[name] * change
        server_control += moved
        if label in ("fedadam", "fedyogi", "fedadagrad"):
            delta = mean - x
            m = 0.9 * m + 0.1 * delta
            if label == "fedadam":
                v = 0.999 * v + 0.001 * delta**2
            elif label == "fedyogi":
                v = v - 0.001 * delta**2 * torch.sign(v - delta**2)
            else:
                v = v + delta**2
            x = x + server_rate * m / (v.sqrt() + 1e-8)
        else:
            x = mean
    return x
