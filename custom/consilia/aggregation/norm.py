"""How far an update is from the model that it started from, and how far it may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from consilia.aggregation.store import SpooledUpdate

CHUNK_ELEMENTS = 1 << 16
"""Elements of the change held in float64 at a time: they stay in the processor's cache."""

MULTIPLE, FLOOR = 5.0, 20.0
"""Of the default of ``max_update_norm``. The floor is for few tensors that start near zero, such as a head or a prompt.
docs/robust.md has the largest changes of honest updates in the shipped studies."""

STATISTICS_NORM = 1000.0
"""Largest L2 norm of the change of all running statistics: they are in the units of a layer's inputs, and their honest
change has nothing to do with the size of the weights."""


def change_norm(update: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """L2 norm, in float64, of an update's change from the reference.

    Args:
        update: tensors by name; of one on disk a chunk is read at a time. No tensor is written to.
        reference: tensors by name, of the same shapes. Those that are not floating, and what only the update has, do
            not count.
    """
    squares = 0.0
    for name in sorted(update):
        if name in reference and reference[name].is_floating_point():
            flat = reference[name].reshape(-1)
            for start in range(0, len(flat), CHUNK_ELEMENTS):
                stop = min(start + CHUNK_ELEMENTS, len(flat))
                # A copy also where the chunk is float64 already: it is written over.
                change = _chunk(update, name, start, stop).to(torch.float64, copy=True).sub_(flat[start:stop])
                squares += float(torch.dot(change, change))
    return math.sqrt(squares)


def is_statistic(name: str) -> bool:
    """Whether a tensor of a model is a running mean or variance of a normalisation layer, by torch's own names."""
    return name.rpartition(".")[2] in ("running_mean", "running_var")


def state_norm(state: Mapping[str, Tensor]) -> float:
    """L2 norm, in float64, of all floating tensors together but for running statistics."""
    floating = (value for name, value in state.items() if value.is_floating_point() and not is_statistic(name))
    return math.hypot(*(float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) for tensor in floating))


def allowed_change(setting: float | Literal["auto"] | None, reference: Mapping[str, Tensor]) -> float | None:
    """The largest L2 norm that an update's change from the reference may have; None: any.

    Args:
        setting: a run's ``max_update_norm``. A number or None holds as it is; ``auto`` is
            max(FLOOR, MULTIPLE ||reference||), by :func:`state_norm`.
        reference: the global state, or what else the change is of.
    """
    if setting != "auto":
        return setting
    return max(FLOOR, MULTIPLE * state_norm(reference))


def _chunk(update: Mapping[str, Tensor], name: str, start: int, stop: int) -> Tensor:
    if isinstance(update, SpooledUpdate):
        return update.chunk(name, start, stop)
    return update[name].reshape(-1)[start:stop]
