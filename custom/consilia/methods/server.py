"""The server's half of a method: what an update may claim, and how a round's updates become the next global state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from consilia.core.aggregation import Rule, mean, weighted_mean
from consilia.core.robust import median, trimmed_mean
from consilia.core.validation import check_update
from consilia.methods.config import MethodConfig, RobustConfig
from consilia.models.foundation import FoundationFolder
from consilia.record.injection import Injection

MAX_SAMPLES = 10_000_000
"""More training cases than this at one site is a mistake or a lie."""

UNGUARDED = RobustConfig()
"""Every update counts by its weight alone."""

C = TypeVar("C", bound=MethodConfig)


@dataclass(frozen=True)
class Claim:
    """What a site says of its own update: n_k training cases, in some methods a score, and its cases by task."""

    samples: int
    score: float | None
    tasks: Mapping[str, int] = field(default_factory=dict)


CARD = "card.json"
"""Beside a model that a :class:`ServerAct` has saved: the configuration of the run that made it."""


@dataclass(frozen=True)
class Workplace:
    """What a strategy may use that acts at the server between two rounds.

    Attributes:
        run: the run's configuration as a job carries it; goes into the card of what is saved.
        model: builds the network that is exchanged, with its initial weights.
        foundation_models: the server's own copies of large pre-trained models.
        data: the server's own public data, a file of site.yaml's form; None where it has none.
        folder: for checkpoints within an act.
        seed: run seed.
        tell: progress.
        should_stop: whether the run was aborted.
    """

    run: Mapping[str, Any]
    model: Callable[[], nn.Module]
    foundation_models: Mapping[str, FoundationFolder]
    data: Path | None
    folder: Path
    seed: int
    tell: Callable[[dict[str, Any]], None]
    should_stop: Callable[[], bool]


class ServerAct(ABC):
    """What a method does at the server after each round's aggregation, with a state of its own that outlives rounds."""

    @abstractmethod
    def act(self, state: Mapping[str, Tensor], round_number: int) -> dict[str, Tensor]:
        """What becomes of the aggregated state of a round: the next global state."""

    @abstractmethod
    def conclude(self) -> None:
        """When the rounds are over: the final figures."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Tensors of its own state, for a checkpoint."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor], report: Injection) -> None:
        """Go on from a checkpoint's tensors and report."""

    @abstractmethod
    def report(self) -> Injection:
        """What the record tells of it."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Leave what it has made, ready for use, in a folder."""


class Strategy(Generic[C]):
    """Federated averaging: theta = sum_k (n_k / sum n) theta_k (McMahan et al. 2017). Methods override what differs.

    Args:
        config: the method's own parameters.
        robust: of the run; every method's :meth:`aggregate` goes by :attr:`rule`.
    """

    def __init__(self, config: C, robust: RobustConfig = UNGUARDED) -> None:
        self.config = config
        self.rule: Rule = {"mean": mean, "median": median, "trimmed_mean": trimmed_mean(robust.trim)}[robust.rule]

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

    def aggregate(
        self,
        updates: Mapping[str, Mapping[str, Tensor]],
        claims: Mapping[str, Claim],
        previous: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """The next global state from the updates and claims by site, and the previous one."""
        return weighted_mean(updates, self.weights(claims), self.rule)

    def server_act(self, workplace: Workplace) -> ServerAct | None:
        """What the method does at the server after every round; None for nothing."""
        return None
