"""The server's conduct of a run: rounds, checks, aggregation, the choice of the best round, checkpoints, the record.

The coordinator does not know how messages travel. An engine gives it one function that delivers tasks to sites and
hands every reply to :meth:`Coordinator.receive` before it returns; a site that does not answer is simply not heard.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel
from torch import Tensor

from consilia.core.checkpoint import CheckpointStore, Kept
from consilia.core.determinism import state_digest
from consilia.core.errors import CheckpointError, RunFailed
from consilia.core.robust import clipped
from consilia.core.spool import UpdateSpool
from consilia.federation.acting import FOLDER, Acting, workplace
from consilia.federation.admission import common_classes, why_not
from consilia.federation.config import RunConfig
from consilia.federation.intake import Deliver, Intake
from consilia.federation.messages import (
    EvaluateReply,
    PersonaliseReply,
    PrepareReply,
    Reply,
    Task,
    TaskInfo,
    TrainReply,
    payload_bytes,
)
from consilia.federation.progress import Progress, no_progress
from consilia.federation.record_keeper import RecordKeeper
from consilia.federation.sampling import draws, sample
from consilia.federation.selection import BestRound, validation_value
from consilia.federation.server_settings import ServerSettings
from consilia.methods.catalogue import METHODS
from consilia.methods.learner import never
from consilia.methods.server import Claim
from consilia.record.schema import Contribution, Exchange, FinalModels, Record, RoundRecord

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
        progress: told about every step, as small JSON-able dictionaries.
        should_stop: polled while the server itself trains.
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
        should_stop: Callable[[], bool] = never,
    ) -> None:
        self.config = config
        self.strategy = METHODS[config.method.method].strategy(config.method, config.robust)
        self.keeper = RecordKeeper(config, server.engine)
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
        self.intake = Intake(self.strategy, self._spool, config.max_update_norm, progress, config.task)
        self._progress = progress
        self._absent: set[str] = set()
        self._resume = self.store.exists()
        place = workplace(config, server, folder / FOLDER, progress, should_stop)
        self._acting = Acting(self.strategy.server_act(place))

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
        self._act_on_round()
        while self.version < self.config.rounds and not self._patience_is_over():
            self._round(deliver)
        self._finish(deliver)
        return self.keeper.record("stopped_early" if self.version < self.config.rounds else "finished")

    def tell_end(self, record: Record) -> None:
        """Say that the run is complete: the last word, once its results are where they belong."""
        self._progress({"event": "finished", "rounds": self.version, "seconds": record.run.seconds})

    def receive(self, site: str, reply: Reply) -> None:
        """Take one site's reply to the task that is open for it. Never raises for what a site sends."""
        self.intake.receive(site, reply)

    def is_waiting(self) -> bool:
        """Whether some site has not yet answered the task that is open for it."""
        return self.intake.is_waiting()

    def so_far(self) -> Record:
        """The record as far as the run has got."""
        return self.keeper.record("running")

    def save_act(self, folder: Path) -> None:
        """Leave what the method has made at the server, if anything, in a folder."""
        self._acting.save(folder)

    def _ask(self, deliver: Deliver, tasks: Sequence[Task]) -> dict[str, BaseModel]:
        return self.intake.ask(deliver, tasks, reference=self.state, known=self.keeper.sites)

    def _prepare(self, deliver: Deliver) -> None:
        info = TaskInfo(task="prepare", version=self.version, resume=self._resume)
        replies = self._ask(deliver, [Task(info, self._connected)])
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
            self._progress({"event": "absent", "site": site, "reason": reason})
        there, needed = len(self._trainers()), self.config.min_sites
        if there < needed:
            raise RunFailed(
                f"{there} site(s) with training data can take part, min_sites is {needed}. {_listed(absent)}"
            )
        self._progress({"event": "prepared", "sites": self._present(), "rounds": self.config.rounds})

    def _round(self, deliver: Deliver) -> None:
        started = time.perf_counter()
        number = self.version + 1
        participants = self._sample(number)
        evaluate = self.config.evaluate_every > 0 and self.version % self.config.evaluate_every == 0
        others = [site for site in self._present() if site not in participants] if evaluate else []
        train = Task(TaskInfo(task="train", version=self.version, evaluate=evaluate), participants, self.state)
        look = Task(TaskInfo(task="evaluate", version=self.version), others, self.state)
        replies = self._ask(deliver, [train, look])
        answered = time.perf_counter()
        updates = {site: reply for site, reply in replies.items() if isinstance(reply, TrainReply)}
        self._require(updates, participants, number)
        claims = {
            site: Claim(reply.samples, reply.score, self.keeper.sites[site].tasks) for site, reply in updates.items()
        }
        weights = self.strategy.weights(claims)
        limit = self.config.robust.clip_norm
        accepted, factors = (self._spool, {}) if limit is None else clipped(self._spool, self.state, limit)
        new_state = self.strategy.aggregate(accepted, claims, self.state)
        self._note_evaluations(replies)
        self._judge()
        self.state, self.version = new_state, number
        seconds = {
            "aggregate": time.perf_counter() - answered,
            "sites": answered - started,
            "slowest_site": max(reply.seconds for reply in updates.values()),
        }
        self.keeper.rounds.append(self._round_record(number, [train, look], updates, weights, factors, seconds))
        self._checkpoint()
        self._act_on_round()
        self._tell_round(number, len(updates), len(participants), time.perf_counter() - started)

    def _act_on_round(self) -> None:
        """The method's own work at the server, unless it is done: what the sites sent is safe on disk by now."""
        if not self._acting.is_due(self.version):
            return
        self.state, took = self._acting.perform(self.state, self.version)
        self.keeper.injection = self._acting.report()
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
        """Every site personalises from the last and from the best global model, sampled before or not."""
        self._acting.conclude()
        self.keeper.injection = self._acting.report()
        self.keeper.final["last"] = self._personalise(deliver, "last", self.version, self.state)
        self._judge()
        if self.best.version in (0, self.version):
            # Nothing was better (or nothing could be judged): the last model is the best one.
            self.best.version, self.best.state = self.version, self.state
            self.keeper.final["best"] = self.keeper.final["last"]
        else:
            self.keeper.final["best"] = self._personalise(deliver, "best", self.best.version, self.best.state)

    def _personalise(self, deliver: Deliver, keep: Literal["last", "best"], version: int, state: State) -> FinalModels:
        trainers = self._trainers() if METHODS[self.config.method.method].learner.personal else []
        evaluators = [site for site in self._present() if site not in trainers]
        self._progress({"event": "personalise", "keep": keep, "sites": trainers})
        replies = self._ask(
            deliver,
            [
                Task(TaskInfo(task="personalise", version=version, keep=keep, final=True), trainers, state),
                Task(TaskInfo(task="evaluate", version=version, keep=keep, final=True), evaluators, state),
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
                    if isinstance(reply, (EvaluateReply, PersonaliseReply))
                },
                "personal": {s: reply.personal for s, reply in replies.items() if isinstance(reply, PersonaliseReply)},
                "mean_query": {
                    site: reply.mean_query
                    for site, reply in replies.items()
                    if isinstance(reply, (EvaluateReply, PersonaliseReply)) and reply.mean_query is not None
                },
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
        self.best.offer(self.version, self.state, self.keeper.evaluation(self.version, "global"))

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

    def _round_record(
        self,
        number: int,
        tasks: Sequence[Task],
        updates: Mapping[str, TrainReply],
        weights: Mapping[str, float],
        factors: Mapping[str, float],
        seconds: dict[str, float],
    ) -> RoundRecord:
        total = math.fsum(weights.values())
        participants = tasks[0].targets
        return RoundRecord(
            round=number,
            participants=list(participants),
            contributions={
                site: Contribution(
                    weight=weights[site] / total,
                    score=reply.score,
                    samples=reply.samples,
                    train_loss=reply.metrics.train_loss,
                    train_accuracy=reply.metrics.train_accuracy,
                    individuality=reply.metrics.individuality,
                    clipped=factors.get(site),
                )
                for site, reply in updates.items()
            },
            refused={site: reason for site, reason in sorted(self.intake.refused.items()) if site in participants},
            missing=[site for site in participants if site not in updates and site not in self.intake.refused],
            bytes_down={
                site: payload_bytes(task.tensors, task.info.model_dump_json())
                for task in tasks
                for site in task.targets
            },
            bytes_up=dict(sorted(self.intake.bytes_up.items())),
            seconds=seconds,
            sha256=state_digest(self.state),
        )

    def _checkpoint(self) -> None:
        state = {
            "run_id": self.config.run_id,
            "version": self.version,
            "acted": self._acting.done,
            "best": self.best.to_json(),
            "record": self.keeper.state(),
        }
        kept = {"global": (self.version, self.state), "best": (self.best.version, self.best.state)}
        models = {
            name: Kept("state", self._acting.file_number(version), tensors, self._digest(version))
            for name, (version, tensors) in kept.items()
        }
        self.store.save(models | self._acting.models(), state)

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
        self._acting.restore(state.get("acted", 0), checkpoint.models, self.keeper.injection)
        log.info("resuming run %s after round %d", self.config.run_id, self.version)

    def _tell_round(self, number: int, updates: int, participants: int, seconds: float) -> None:
        self._progress(
            {
                "event": "round",
                "round": number,
                "of": self.config.rounds,
                "updates": updates,
                "participants": participants,
                "validation": validation_value(self.keeper.evaluation(number - 1, "global"), self.config.best_figure),
                "seconds": seconds,
            }
        )


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{site}: {reason}" for site, reason in sorted(reasons.items()))
