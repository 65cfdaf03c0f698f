"""FedBABU: Oh, Kim and Yun, "FedBABU: Toward Enhanced Representation for Federated Image Classification", ICLR 2022.

Only the body is trained and averaged. The head keeps the initial weights that every site draws from the run's seed: it
is neither trained nor sent, and so is the same everywhere, at sites that train nothing, too. The global model is the
averaged body with that head (Algorithm 1). After the rounds a site fine-tunes it on its own cases: the whole model, as
the paper does by default, or its head alone (section 5.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from consilia.methods.client import ClientContext, Round
from consilia.methods.contract import Method, State, Update
from consilia.methods.heads import BodyMethod, HeadClient, HeadConfig


class FedBABUConfig(HeadConfig):
    """FedBABU's parameters."""

    fine_tune: Literal["all", "head"] = Field("all", description="what of the model becomes personal after the rounds")


class FedBABUClient(HeadClient[FedBABUConfig]):
    """Trains the body under a head that does not move."""

    def __init__(self, method: Method[FedBABUConfig], context: ClientContext) -> None:
        super().__init__(method, context)
        self.initial_head = self.state(self.private)
        """As the run's seed gives it."""

    def train(self, round_: Round) -> Update:
        """Local training of the body."""
        self.load({**round_.state, **self.initial_head})
        return self.update(self.fit_part(round_, "body"))

    def personalize(self, round_: Round) -> State:
        """The global model, fine-tuned."""
        self.load({**round_.state, **self.initial_head})
        if self.config.fine_tune == "head":
            self.fit_part(round_, "head")
        else:
            self.fit(round_)
        return self.state()

    def state_for(self, kind: str, global_state: State) -> State:
        """The global model is the received body with the initial head."""
        return {**global_state, **self.initial_head} if kind == "global" else super().state_for(kind, global_state)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the head is what the run's seed gives."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The initial head again, where a site has fine-tuned it."""
        self.load(self.initial_head)


class FedBABU(BodyMethod[FedBABUConfig]):
    """FedAvg of the body under a head that nobody trains until the rounds are over (Oh et al. 2022)."""

    name = "fedbabu"
    Config = FedBABUConfig

    def client(self, context: ClientContext) -> FedBABUClient:
        """The site's half."""
        return FedBABUClient(self, context)
