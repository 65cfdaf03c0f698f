"""FedKPer at the server: alpha_k = s_k / sum s, with the number of cases as the fallback."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from torch import Tensor

from consilia.core.errors import UpdateRejected
from consilia.methods.fedkper.config import FedKPerConfig
from consilia.methods.fedkper.reliability import MAX_SCORE
from consilia.methods.server import Claim, Strategy

log = logging.getLogger(__name__)


class FedKPerStrategy(Strategy[FedKPerConfig]):
    """Aggregation by reliability x label diversity (specification 3.1 and decision 10.2)."""

    def check(
        self,
        tensors: Mapping[str, Tensor],
        claim: Claim,
        *,
        reference: Mapping[str, Tensor],
        max_norm: float | None,
    ) -> None:
        """The shared checks, and a score within its bounds."""
        if self.config.weighting == "reliability_diversity":
            score = claim.score
            if score is None or not math.isfinite(score) or not 0 <= score <= MAX_SCORE:
                raise UpdateRejected(f"score is {score}, expected a finite number in [0, {MAX_SCORE}]")
        super().check(tensors, claim, reference=reference, max_norm=max_norm)

    def weights(self, claims: Mapping[str, Claim]) -> dict[str, float]:
        """s_k by site; n_k for all where every score is zero, which would leave nothing to divide by."""
        if self.config.weighting == "samples":
            return super().weights(claims)
        scores = {site: claim.score or 0.0 for site, claim in claims.items()}
        if math.fsum(scores.values()) > 0:
            return scores
        log.warning("all reliability x diversity scores of this round are zero: weighing by number of cases instead")
        return super().weights(claims)
