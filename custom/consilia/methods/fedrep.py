"""FedRep: Collins et al., "Exploiting Shared Representations for Personalized Federated Learning", ICML 2021, Alg. 1.

In a round a site first trains its head h_k on the body phi that it has received, which is frozen, and then the body
with that head, frozen in its turn:

    h_k^s = h_k^(s-1) - eta grad_h f_k(h_k^(s-1), phi),     phi_k = phi - eta grad_phi f_k(h_k, phi).

phi_k is averaged, h_k stays at the site. Both phases together take the round's passes over the data, as many as any
other method's. A frozen part is in evaluation mode: of the body's normalisation no statistics move while the head
learns. The paper weighs all sites alike; here they weigh n_k, as with the other methods. There is no global model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from consilia.core.errors import ConfigError
from consilia.methods.client import ClientContext, Round
from consilia.methods.config import TrainingConfig
from consilia.methods.contract import Update
from consilia.methods.heads import BodyMethod, HeadConfig, PrivateHeadClient


class FedRepConfig(HeadConfig):
    """FedRep's parameters."""

    head_share: float = Field(
        0.5, gt=0, lt=1, description="of a round's passes that train the head; one at least for head and for body"
    )


class FedRepClient(PrivateHeadClient[FedRepConfig]):
    """Head first, then body."""

    def train(self, round_: Round) -> Update:
        """Both phases; what is reported is the loss at the end of the second."""
        self.load(round_.state)
        passes = self.training.local_epochs if round_.epochs is None else round_.epochs
        head = head_passes(passes, self.config.head_share)
        self.fit_part(round_, "head", epochs=head, purpose="head")
        return self.update(self.fit_part(round_, "body", epochs=passes - head, purpose="body"))


def head_passes(passes: int, share: float) -> int:
    """How many of the passes train the head: the nearest whole number to their share, but not none and not all.

    Raises:
        ConfigError: there is one pass alone.
    """
    if passes < 2:
        raise ConfigError(
            f"method fedrep trains the head in one pass and the body in another, there are {passes} in a round: set "
            "training.local_epochs (and training.personalise_epochs) to 2 or more"
        )
    return min(max(round(share * passes), 1), passes - 1)


class FedRep(BodyMethod[FedRepConfig]):
    """A shared body under heads that stay at the sites; a round trains the head first (Collins et al. 2021)."""

    name = "fedrep"
    Config = FedRepConfig
    global_model = False
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {"head_share": (0.2, 0.5, 0.8)}

    def check_training(self, training: TrainingConfig) -> None:
        """A round needs two passes, and no steps in their place."""
        if training.local_steps is not None:
            raise ConfigError(
                "method fedrep divides a round's passes between head and body: expected training.local_steps: null, "
                f"got {training.local_steps}"
            )
        for passes in (training.local_epochs, training.personalise_epochs):
            if passes is not None:
                head_passes(passes, self.config.head_share)

    def client(self, context: ClientContext) -> FedRepClient:
        """The site's half."""
        return FedRepClient(self, context)
