"""One round of training: sample sites, ask them, check what they send, weigh it, aggregate it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from consilia.aggregation import clipped, mean_of_updates, rule_of, weighted_mean
from consilia.core.determinism import state_digest
from consilia.core.errors import RunFailed
from consilia.federation.config import RunConfig
from consilia.federation.contributions import contributions, sent_bytes
from consilia.federation.messages import Broadcast, TrainReply
from consilia.federation.participants import Participants, listed
from consilia.federation.requests import is_evaluated
from consilia.federation.update_validation import Deliver, UpdateValidation, metadata
from consilia.methods.contract import State
from consilia.methods.server import Mean, Server, Weights
from consilia.record.schema import RoundRecord


@dataclass(frozen=True)
class RoundResult:
    """What a round has brought.

    Attributes:
        state: the next global state.
        replies: the accepted replies by site: updates, and evaluations of the state that the round began with.
        updates: those of them that hold an update.
        record: the round in the run's record.
    """

    state: State
    replies: Mapping[str, BaseModel]
    updates: Mapping[str, TrainReply]
    record: RoundRecord


class TrainingRound:
    """One round of a run.

    Args:
        number: 1-based.
        state: the global state that it begins with.
        config: the run.
        server: the method's half at the server.
        participants: the run's sites.
        validation: checks every reply, and keeps the accepted updates on disk.
    """

    def __init__(
        self,
        number: int,
        state: State,
        *,
        config: RunConfig,
        server: Server[Any],
        participants: Participants,
        validation: UpdateValidation,
    ) -> None:
        self.number, self.state, self.config = number, state, config
        self.server, self.participants, self.validation = server, participants, validation

    def run(self, deliver: Deliver) -> RoundResult:
        """Carry the round out.

        Raises:
            RunFailed: fewer updates are accepted than the run needs.
        """
        started = time.perf_counter()
        asked = self.participants.sample(self.number)
        broadcasts = self._broadcasts(asked)
        replies = self.validation.ask(deliver, broadcasts, reference=self.state, known=self.participants.recorder.sites)
        answered = time.perf_counter()
        updates = {site: reply for site, reply in replies.items() if isinstance(reply, TrainReply)}
        self._require_enough(asked, updates)
        sites = self.participants.recorder.sites
        said = {site: metadata(reply, sites[site]) for site, reply in updates.items()}
        weights = self.server.weights(said)
        state, factors = self._aggregate(weights, self.server.extras_weights(said))
        seconds = {
            "aggregate": time.perf_counter() - answered,
            "sites": answered - started,
            "slowest_site": max(reply.seconds for reply in updates.values()),
        }
        refused = self.validation.refused
        record = RoundRecord(
            round=self.number,
            participants=asked,
            contributions=contributions(updates, weights, factors),
            refused={site: why for site, why in sorted(refused.items()) if site in asked},
            max_update_norm=self.validation.max_norm,
            missing=[site for site in asked if site not in updates and site not in refused],
            bytes_down=sent_bytes(broadcasts),
            bytes_up=dict(sorted(self.validation.bytes_up.items())),
            seconds=seconds,
            sha256=state_digest(state),
        )
        return RoundResult(state, replies, updates, record)

    def _broadcasts(self, asked: list[str]) -> list[Broadcast]:
        """Sampled sites train; where the state is evaluated in this round, others evaluate it, too."""
        version = self.number - 1
        evaluate = is_evaluated(version, self.config)
        others = [site for site in self.participants.present() if evaluate and self._only_evaluates(site, asked)]
        tensors = {**self.state, **self.server.declared_payload(self.number)}
        return [
            *self.participants.requests("train", asked, tensors, round=version, evaluate=evaluate),
            *self.participants.requests("evaluate", others, self.state, round=version),
        ]

    def _only_evaluates(self, site: str, asked: list[str]) -> bool:
        return site not in asked and (self.config.evaluate_at == "all" or site in self.config.test_only_sites)

    def _require_enough(self, asked: list[str], updates: Mapping[str, TrainReply]) -> None:
        needed = self.participants.needed()
        if len(updates) < needed:
            reasons = listed({site: self.validation.why_absent(site) for site in asked if site not in updates})
            raise RunFailed(f"round {self.number} has {len(updates)} accepted updates, needs {needed} ({reasons})")

    def _aggregate(self, weights: Weights, of_extras: Mapping[str, float]) -> tuple[State, dict[str, float]]:
        """The next global state, and by which factor each update that was clipped was scaled."""
        robust, spool = self.config.robust, self.validation.spool
        rule = rule_of(robust.rule, robust.trim)
        updates, factors = (spool, {}) if robust.clip_norm is None else clipped(spool, self.state, robust.clip_norm)
        extras = list(self.server.extras)
        mean = Mean(
            state=mean_of_updates(updates, weights, self.state, rule),
            extras=weighted_mean(updates, of_extras, rule, names=extras) if extras else {},
            sites=len(updates),
            trainers=len(self.participants.all_trainers()),
        )
        return self.server.next_state(self.state, mean, self.number), factors
