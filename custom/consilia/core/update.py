"""What a site returns after local training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Update:
    """One site's contribution to a round. Everything in here leaves the site, and nothing else does.

    Attributes:
        tensors: the exchanged tensors by name (a method exchanges only what it trains).
        samples: number of training cases n_k.
        score: the method's own aggregation score (FedKPer's s_k), or None where the method weighs by ``samples``.
        metrics: scalars about local training, e.g. ``train_loss``, ``train_accuracy``.
    """

    tensors: Mapping[str, Tensor]
    samples: int
    score: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
