"""How far an update is from the model that it started from."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from consilia.aggregation.store import SpooledUpdate

CHUNK_ELEMENTS = 1 << 16
"""Elements of the change held in float64 at a time: they stay in the processor's cache."""


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


def _chunk(update: Mapping[str, Tensor], name: str, start: int, stop: int) -> Tensor:
    if isinstance(update, SpooledUpdate):
        return update.chunk(name, start, stop)
    return update[name].reshape(-1)[start:stop]
