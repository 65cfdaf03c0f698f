"""The server's half of a method: what an update may claim, and how a round's updates become the next global state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from consilia.core.aggregation import weighted_mean
from consilia.core.validation import check_update
from consilia.methods.config import MethodConfig

MAX_SAMPLES = 10_000_000
"""More training cases than this at one site is a mistake or a lie."""

C = TypeVar("C", bound=MethodConfig)


@dataclass(frozen=True)
class Claim:
    """What a site says of its own update: n_k training cases and, in some methods, a score."""

    samples: int
    score: float | None


class Strategy(Generic[C]):
    """Federated averaging: theta = sum_k (n_k / sum n) theta_k (McMahan et al. 2017). Methods override what differs."""

    def __init__(self, config: C) -> None:
        self.config = config

    def check(
        self,
        tensors: Mapping[str, Tensor],
        claim: Claim,
        *,
        reference: Mapping[str, Tensor],
        max_norm: float | None,
    ) -> None:
        """Refuse an update that does not fit the reference or claims too much; raises UpdateRejected."""
        check_update(tensors, claim.samples, reference=reference, max_norm=max_norm, max_weight=MAX_SAMPLES)

    def weights(self, claims: Mapping[str, Claim]) -> dict[str, float]:
        """Raw aggregation weights by site; they need not sum to one."""
        return {site: float(claim.samples) for site, claim in claims.items()}

    def aggregate(self, updates: Mapping[str, Mapping[str, Tensor]], weights: Mapping[str, float]) -> dict[str, Tensor]:
        """The next global state."""
        return weighted_mean(updates, weights)
