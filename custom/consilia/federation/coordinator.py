"""The server's conduct of a run: rounds, checks, aggregation, the choice of the best round, checkpoints, the record.

The coordinator does not know how messages travel. An engine gives it one function that delivers requests to sites and
hands every reply to :meth:`Coordinator.receive` before it returns; a site that does not answer is simply not heard.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from torch import Tensor

from consilia.aggregation import UpdateSpool, clipped, mean_of_updates, rule_of, weighted_mean
from consilia.core.checkpoint import CheckpointStore, Kept
from consilia.core.determinism import state_digest
from consilia.core.errors import CheckpointError, RunFailed
from consilia.core.events import Absent, Finished, Personalizing, Prepared, Progress, RoundDone, no_progress
from consilia.core.stop import StopSignal, never
from consilia.federation.accepted import AcceptedRounds
from consilia.federation.admission import common_classes, why_not
from consilia.federation.config import RunConfig
from consilia.federation.contributions import contributions, field_infos, sent_bytes, variants
from consilia.federation.intake import Deliver, Intake, metadata
from consilia.federation.messages import (
    Broadcast,
    EvaluateReply,
    PersonalizeReply,
    PrepareReply,
    Reply,
    Request,
    RequestKind,
    TrainReply,
)
from consilia.federation.record_keeper import RecordKeeper
from consilia.federation.sampling import draws, sample
from consilia.federation.selection import BestRound, validation_value
from consilia.federation.server_settings import SERVER_FILE, ServerSettings
from consilia.federation.server_work import FOLDER, ServerWork, open_server
from consilia.methods.registry import AllowedMethods
from consilia.methods.server import Mean, Weights
from consilia.record.schema import Exchange, FinalModels, Record, RoundRecord

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint"

State = Mapping[str, Tensor]


class Coordinator:
    """Leads one run from the initial global state to the record; goes on from a checkpoint where ``folder`` holds one.

    Args:
        config: the run.
        sites: names of the connected sites.
        initial: the global state of version 0.
        all_parameters: elements that full fine-tuning of the same model would exchange.
        folder: where the spool lies and the checkpoints are kept.
        server: what the server's administrator decides, and where the server's own data and models are.
        progress: told about every step.
        should_stop: polled while the server itself works.
    """

    def __init__(
        self,
        config: RunConfig,
        sites: Sequence[str],
        initial: State,
        folder: Path,
        *,
        all_parameters: int,
        server: ServerSettings,
        progress: Progress = no_progress,
        should_stop: StopSignal = never,
    ) -> None:
        self.config = config
        AllowedMethods(server.allow_methods, Path(SERVER_FILE)).require(config.method.method)
        self.server = open_server(config, server, folder / FOLDER, progress, should_stop)
        self.method = self.server.method
        self._rule = rule_of(config.robust.rule, config.robust.trim)
        self._work = ServerWork(self.server, config.training.threads)
        self._accepted = AcceptedRounds()
        self.keeper = RecordKeeper(config, server.engine)
        self.keeper.fields = field_infos(self.method)
        self.keeper.exchange = Exchange(
            parameters=sum(tensor.numel() for tensor in initial.values()),
            all_parameters=all_parameters,
            dtype=config.exchange_dtype,
        )
        self.store = CheckpointStore(folder / CHECKPOINT)
        self.state: State = initial
        self.version = 0
        self.best = BestRound(config.best_figure, initial)
        self._connected = sorted(sites)
        self._spool = UpdateSpool(folder / "spool")
        self.intake = Intake(self.server, self._spool, config.max_update_norm, progress, config.task)
        self._progress = progress
        self._absent: set[str] = set()
        self._resume = self.store.exists()

    # ---- the run -----------------------------------------------------------------------------------------------

    def run(self, deliver: Deliver) -> Record:
        """Carry the run to its end.

        Raises:
            RunFailed: too few sites or updates, or no class list that most sites share. The last checkpoint stays.
            CheckpointError: the checkpoint to resume from belongs to another run or is damaged.
        """
        try:
            return self._run(deliver)
        finally:
            # The sites' own models: nobody needs them any more, a resumed run asks for the round's anew.
            self._spool.remove()

    def _run(self, deliver: Deliver) -> Record:
        if self._resume:
            self._restore()
        self._prepare(deliver)
        self._work_after_round()
        while self.version < self.config.rounds and not self._patience_is_over():
            self._round(deliver)
        self._finish(deliver)
        return self.keeper.record("stopped_early" if self.version < self.config.rounds else "finished")

    def tell_end(self, record: Record) -> None:
        """Say that the run is complete: the last word, once its results are where they belong."""
        self._progress(Finished(rounds=self.version, seconds=record.run.seconds))

    def receive(self, site: str, reply: Reply) -> None:
        """Take one site's reply to the request that is open for it. Never raises for what a site sends."""
        self.intake.receive(site, reply)

    def is_waiting(self) -> bool:
        """Whether some site has not yet answered the request that is open for it."""
        return self.intake.is_waiting()

    def so_far(self) -> Record:
        """The record as far as the run has got."""
        return self.keeper.record("running")

    def _ask(self, deliver: Deliver, broadcasts: Sequence[Broadcast]) -> dict[str, BaseModel]:
        return self.intake.ask(deliver, broadcasts, reference=self.state, known=self.keeper.sites)

    def _requests(
        self, kind: RequestKind, targets: Sequence[str], state: State, *, of_best: bool = False, **options: Any
    ) -> list[Broadcast]:
        """One request for all sites whose client states are of the same rounds."""
        # What the method sends beside the model is for training alone.
        trains = kind in ("train", "personalize")
        tensors = {**state, **(self.server.payload(self.version + 1) if trains else {})}
        groups: dict[tuple[int, int], list[str]] = {}
        for site in targets:
            last, best = self._accepted.of(site)
            groups.setdefault((best if of_best else last, best), []).append(site)
        return [
            Broadcast(Request(kind=kind, client_round=counts, best_client_round=best, **options), sites, tensors)
            for (counts, best), sites in sorted(groups.items())
        ]

    def _prepare(self, deliver: Deliver) -> None:
        request = Request(kind="prepare", round=self.version, resume=self._resume)
        replies = self._ask(deliver, [Broadcast(request, self._connected)])
        told = {site: reply for site, reply in replies.items() if isinstance(reply, PrepareReply)}
        absent = {site: self.intake.why_absent(site) for site in self._connected if site not in told}
        known = dict(self.keeper.sites) if self._resume else None
        if told and not self.keeper.class_names:
            self.keeper.class_names = common_classes(told)
        for site, reply in told.items():
            reason = why_not(site, reply, self.config, classes=self.keeper.class_names, known=known)
            if reason is not None:
                absent[site] = reason
            elif known is None:
                self.keeper.add_site(site, reply)
        absent |= {site: "it is not connected" for site in self.keeper.sites if site not in self._connected}
        self._absent = set(absent)
        self.keeper.absent = absent
        for site, reason in sorted(absent.items()):
            log.error("site %s cannot take part: %s", site, reason)
            self._progress(Absent(site=site, reason=reason))
        there, needed = len(self._trainers()), self.config.min_sites
        if there < needed:
            raise RunFailed(
                f"{there} site(s) with training data can take part, min_sites is {needed}. {_listed(absent)}"
            )
        self._progress(Prepared(sites=self._present(), rounds=self.config.rounds))

    def _round(self, deliver: Deliver) -> None:
        started = time.perf_counter()
        number = self.version + 1
        participants = self._sample(number)
        evaluate = self.config.evaluate_every > 0 and self.version % self.config.evaluate_every == 0
        others = [site for site in self._present() if site not in participants] if evaluate else []
        broadcasts = [
            *self._requests("train", participants, self.state, round=self.version, evaluate=evaluate),
            *self._requests("evaluate", others, self.state, round=self.version),
        ]
        replies = self._ask(deliver, broadcasts)
        answered = time.perf_counter()
        updates = {site: reply for site, reply in replies.items() if isinstance(reply, TrainReply)}
        self._require(updates, participants, number)
        weights = self.server.weights(
            {site: metadata(reply, self.keeper.sites[site]) for site, reply in updates.items()}
        )
        new_state, factors = self._aggregate(weights, number)
        self._note_evaluations(replies)
        self._judge()
        self._accepted.add(number, updates)
        self.state, self.version = new_state, number
        seconds = {
            "aggregate": time.perf_counter() - answered,
            "sites": answered - started,
            "slowest_site": max(reply.seconds for reply in updates.values()),
        }
        self.keeper.rounds.append(
            RoundRecord(
                round=number,
                participants=list(participants),
                contributions=contributions(updates, weights, factors),
                refused={site: why for site, why in sorted(self.intake.refused.items()) if site in participants},
                missing=[site for site in participants if site not in updates and site not in self.intake.refused],
                bytes_down=sent_bytes(broadcasts),
                bytes_up=dict(sorted(self.intake.bytes_up.items())),
                seconds=seconds,
                sha256=state_digest(self.state),
            )
        )
        self._checkpoint()
        self._work_after_round()
        self._tell_round(number, len(updates), len(participants), time.perf_counter() - started)

    def _aggregate(self, weights: Weights, number: int) -> tuple[State, dict[str, float]]:
        """The next global state, and by which factor each update that was clipped was scaled."""
        limit = self.config.robust.clip_norm
        updates, factors = (self._spool, {}) if limit is None else clipped(self._spool, self.state, limit)
        extras, equal = list(self.server.extras), dict.fromkeys(updates, 1.0)
        mean = Mean(
            state=mean_of_updates(updates, weights, self.state, self._rule),
            extras=weighted_mean(updates, equal, self._rule, names=extras) if extras else {},
            sites=len(updates),
            trainers=len(self._all_trainers()),
        )
        return self.server.step(self.state, mean, number), factors

    def _work_after_round(self) -> None:
        """The method's own work at the server, unless it is done: what the sites sent is safe on disk by now."""
        if not self._work.is_due(self.version):
            return
        self.state, took = self._work.perform(self.state, self.version)
        self.keeper.add_section(self.server)
        last = self.keeper.rounds[-1]
        self.keeper.rounds[-1] = last.model_copy(
            update={"seconds": {**last.seconds, "act": took}, "sha256": state_digest(self.state)}
        )
        self._checkpoint()

    def _require(self, updates: Mapping[str, TrainReply], participants: Sequence[str], number: int) -> None:
        needed = min(self.config.min_sites, draws(self._all_trainers(), self.config.participation))
        if len(updates) < needed:
            reasons = _listed({site: self.intake.why_absent(site) for site in participants if site not in updates})
            raise RunFailed(f"round {number} has {len(updates)} accepted updates, needs {needed} ({reasons})")

    def _finish(self, deliver: Deliver) -> None:
        """Every site makes a personal model of the last and of the best global model, sampled before or not."""
        self._work.finish()
        self.keeper.add_section(self.server)
        self.keeper.final["last"] = self._personalize(deliver, "last", self.version, self.state)
        self._judge()
        if self.best.version in (0, self.version):
            # Nothing was better (or nothing could be judged): the last model is the best one.
            self.best.version, self.best.state = self.version, self.state
            self.keeper.final["best"] = self.keeper.final["last"]
        else:
            self.keeper.final["best"] = self._personalize(deliver, "best", self.best.version, self.best.state)

    def _personalize(self, deliver: Deliver, keep: Literal["last", "best"], version: int, state: State) -> FinalModels:
        trainers = self._trainers() if self.method.personal else []
        others = [site for site in self._present() if site not in trainers]
        self._progress(Personalizing(keep=keep, sites=trainers))
        of_best = keep == "best"
        replies = self._ask(
            deliver,
            [
                *self._requests("personalize", trainers, state, of_best=of_best, round=version, keep=keep, final=True),
                *self._requests("evaluate", others, state, of_best=of_best, round=version, keep=keep, final=True),
            ],
        )
        if keep == "last":
            self._note_evaluations(replies)
        return FinalModels.model_validate(
            {
                "version": version,
                "sha256": self._digest(version) or state_digest(state),
                "global": {
                    site: reply.received
                    for site, reply in replies.items()
                    if isinstance(reply, (EvaluateReply, PersonalizeReply)) and reply.received is not None
                },
                "personal": {s: reply.personal for s, reply in replies.items() if isinstance(reply, PersonalizeReply)},
                "variants": variants(replies),
            }
        )

    # ---- decisions ---------------------------------------------------------------------------------------------

    def _present(self) -> list[str]:
        return [name for name in sorted(self.keeper.sites) if name not in self._absent]

    def _trainers(self) -> list[str]:
        return [name for name in self._all_trainers() if name not in self._absent]

    def _sample(self, number: int) -> list[str]:
        config = self.config
        return sample(
            self._all_trainers(),
            self._absent,
            participation=config.participation,
            seed=config.seed,
            round_number=number,
        )

    def _all_trainers(self) -> list[str]:
        return [name for name, site in sorted(self.keeper.sites.items()) if not site.evaluator]

    def _judge(self) -> None:
        if self.best.offer(self.version, self.state, self.keeper.evaluation(self.version, "global")):
            self._accepted.mark_best()

    def _patience_is_over(self) -> bool:
        return self.config.patience is not None and self.best.stale >= self.config.patience

    # ---- records and checkpoints -------------------------------------------------------------------------------

    def _note_evaluations(self, replies: Mapping[str, BaseModel]) -> None:
        for site, reply in replies.items():
            received = getattr(reply, "received", None)
            if received is not None:
                self.keeper.add_evaluation(self.version, "global", site, received)
            if isinstance(reply, TrainReply) and reply.trained is not None:
                self.keeper.add_evaluation(self.version + 1, "personal", site, reply.trained)

    def _checkpoint(self) -> None:
        own, server = self._work.checkpoint(self.version)
        state = {
            "run_id": self.config.run_id,
            "version": self.version,
            "accepted": self._accepted.to_json(),
            "server": server,
            "best": self.best.to_json(),
            "record": self.keeper.state(),
        }
        kept = {"global": (self.version, self.state), "best": (self.best.version, self.best.state)}
        models = {
            name: Kept("state", self._work.file_number(version), tensors, self._digest(version))
            for name, (version, tensors) in kept.items()
        }
        self.store.save(models | own, state)

    def _digest(self, version: int) -> str | None:
        """The digest of the state of a version, as the record has it; of the initial one it has none."""
        return self.keeper.rounds[version - 1].sha256 if version else None

    def _restore(self) -> None:
        checkpoint = self.store.load()
        state = checkpoint.state
        if state["run_id"] != self.config.run_id:
            raise CheckpointError(
                f"{self.store.folder} belongs to run {state['run_id']}, this configuration is run {self.config.run_id}"
            )
        self.version, self.state = state["version"], checkpoint.models["global"]
        self.best.restore(state["best"], checkpoint.models["best"])
        self.keeper.restore(state["record"])
        self._accepted.restore(state["accepted"])
        self._work.restore(state["server"], checkpoint.models)
        log.info("resuming run %s after round %d", self.config.run_id, self.version)

    def _tell_round(self, number: int, updates: int, participants: int, seconds: float) -> None:
        self._progress(
            RoundDone(
                round=number,
                of=self.config.rounds,
                updates=updates,
                participants=participants,
                validation=validation_value(self.keeper.evaluation(number - 1, "global"), self.config.best_figure),
                seconds=seconds,
            )
        )


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{site}: {reason}" for site, reason in sorted(reasons.items()))
