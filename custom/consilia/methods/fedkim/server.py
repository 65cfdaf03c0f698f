"""FedKIM at the server: each tensor is averaged over the sites that trained it, then their knowledge is injected."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from consilia.core.aggregation import partial_mean
from consilia.core.validation import check_update
from consilia.methods.fedkim.config import FedKIMConfig
from consilia.methods.fedkim.learner import owners
from consilia.methods.server import MAX_SAMPLES, Claim, ServerAct, Strategy, Workplace


class FedKIMStrategy(Strategy[FedKIMConfig]):
    """theta_m = sum_k n_km theta_km / sum_k n_km for every encoder m, over the sites k that have a task reading it.

    n_km counts the site's training cases of the tasks that read modality m; a head's are its own task's.
    """

    def check(
        self,
        tensors: Mapping[str, Tensor],
        claim: Claim,
        *,
        reference: Mapping[str, Tensor],
        max_norm: float | None,
    ) -> None:
        """Refuse an update that does not hold exactly the encoders and heads of the site's tasks."""
        expected = {name: tensor for name, tensor in reference.items() if self._cases(name, claim)}
        check_update(tensors, claim.samples, reference=expected, max_norm=max_norm, max_weight=MAX_SAMPLES)

    def aggregate(
        self,
        updates: Mapping[str, Mapping[str, Tensor]],
        claims: Mapping[str, Claim],
        previous: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """The aggregated extractor; a tensor that no site has trained stays as it was."""
        weights = {
            name: {site: float(cases) for site, claim in claims.items() if (cases := self._cases(name, claim))}
            for name in previous
        }
        return partial_mean(updates, weights, previous, self.rule)

    def server_act(self, workplace: Workplace) -> ServerAct:
        """The injection."""
        # The language model's libraries are needed at the server alone.
        from consilia.methods.fedkim.act import InjectionAct

        return InjectionAct(self.config, workplace)

    def _cases(self, name: str, claim: Claim) -> int:
        return sum(claim.tasks.get(task, 0) for task in owners(name, self.config.catalogue))
