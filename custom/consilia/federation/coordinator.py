"""The server's conduct of a run, on one page: prepare, rounds, the choice of the best one, the final evaluation.

The coordinator does not know how messages travel. An engine gives it one function that delivers requests to sites and
hands every reply to :meth:`Coordinator.receive` before it returns; a site that does not answer is simply not heard.
How long to wait for one is in :mod:`consilia.federation.attendance`.
What a round does is in :mod:`consilia.federation.round`, how replies are checked in
:mod:`consilia.federation.update_validation`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from consilia.aggregation import UpdateSpool
from consilia.core.determinism import state_digest
from consilia.core.events import (
    Absent,
    Finished,
    Notice,
    Personalizing,
    Prepared,
    Progress,
    RoundDone,
    Warned,
    no_progress,
)
from consilia.core.stop import StopSignal, never
from consilia.evaluation.thresholds import mean_threshold
from consilia.federation.attendance import Attendance
from consilia.federation.checkpoints import RunCheckpoint
from consilia.federation.config import RunConfig
from consilia.federation.contributions import field_infos
from consilia.federation.final import Keep, ask_for_final, final_models, personalizing
from consilia.federation.messages import Broadcast, PrepareReply, Reply, Request, TrainReply
from consilia.federation.participants import Participants
from consilia.federation.recorder import Recorder
from consilia.federation.round import RoundResult, TrainingRound
from consilia.federation.run_warnings import same_data, unlike_layouts
from consilia.federation.selection import BestRound, validation_value
from consilia.federation.server_settings import SERVER_FILE, ServerSettings
from consilia.federation.server_work import FOLDER, ServerWork, open_server
from consilia.federation.update_validation import Deliver, UpdateValidation
from consilia.methods.contract import State
from consilia.methods.registry import AllowedMethods
from consilia.record.schema import Exchange, Record, SiteMetrics

NOT_JUDGED = "no site sent validation metrics (none, or withheld by its limits): the last model stands for the best"


class Coordinator:
    """Leads one run from the initial global state to the record; goes on from a checkpoint where ``folder`` holds one.

    Args:
        config: the run.
        sites: names of the connected sites.
        initial: the global state of version 0.
        all_parameters: elements that full fine-tuning of the same model would exchange.
        folder: where the spool lies and the checkpoints are kept.
        server: what the server's administrator decides, and where the server's own data and models are.
        progress: called with every event.
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
        self.config, self._progress = config, progress
        AllowedMethods(server.allow_methods, Path(SERVER_FILE)).require(config.method.method)
        self.server = open_server(config, server, folder / FOLDER, progress, should_stop)
        self.recorder = Recorder(config, server.engine)
        self.recorder.fields = field_infos(self.server.method)
        self.recorder.global_model = self.server.method.global_model
        self.recorder.exchange = Exchange(
            parameters=sum(tensor.numel() for tensor in initial.values()),
            all_parameters=all_parameters,
            dtype=config.exchange_dtype,
        )
        self.version = 0
        self.state: State = initial
        self.best = BestRound(config.primary_metric, initial)
        self.participants = Participants(config, sites, self.recorder)
        self.attendance = Attendance(self.recorder, config.round_timeout, progress)
        spool = UpdateSpool(folder / "spool")
        self.validation = UpdateValidation(
            self.server, spool, config.max_update_norm, progress, config.task, self.attendance
        )
        self._work = ServerWork(self.server, config.training.threads)
        self._checkpoint = RunCheckpoint(folder, self.participants, self._work, self.best)
        self._resume = self._checkpoint.exists()
        self._withholding: set[str] = set()
        self._warned: list[str] = []

    # ---- the run -----------------------------------------------------------------------------------------------

    def run(self, deliver: Deliver) -> Record:
        """Carry the run to its end.

        Raises:
            RunFailed: too few sites or updates, or no class list that most sites share. The last checkpoint stays.
            CheckpointError: the checkpoint to resume from belongs to another run or is damaged.
        """
        try:
            if self._resume:
                self.version, self.state = self._checkpoint.restore()
            self._prepare(deliver)
            self._work_after_round()
            while self.version < self.config.rounds and not self._patience_is_over():
                self._round(deliver)
            self._finish(deliver)
        finally:
            # The sites' own models: nobody needs them any more, a resumed run asks for the round's anew.
            self.validation.spool.remove()
        record = self.recorder.record("stopped_early" if self.version < self.config.rounds else "finished")
        self._warn(record.warnings)
        return record

    def _prepare(self, deliver: Deliver) -> None:
        """Ask every connected site who it is; go on with those that can take part."""
        request = Request(kind="prepare", round=self.version, resume=self._resume)
        asked = self.participants.connected
        replies = self._ask(deliver, [Broadcast(request, asked)])
        ready = {site: reply for site, reply in replies.items() if isinstance(reply, PrepareReply)}
        reasons = {site: self.validation.why_absent(site) for site in asked if site not in ready}
        self.participants.enrol(ready, reasons, resume=self._resume)
        for site, reason in self.participants.absent.items():
            self._progress(Absent(site=site, reason=reason))
        self.participants.require_enough()
        self._warn(same_data(self.recorder.sites))
        for reason in unlike_layouts(self.recorder.sites):
            self._progress(Notice(reason=reason))
        self._progress(Prepared(sites=self.participants.present(), rounds=self.config.rounds, done=self.version))

    def _round(self, deliver: Deliver) -> None:
        """One round more. What it has brought is in the checkpoint before anything else happens."""
        started, number = time.perf_counter(), self.version + 1
        result = TrainingRound(
            number,
            self.state,
            config=self.config,
            server=self.server,
            participants=self.participants,
            validation=self.validation,
        ).run(deliver)
        self._note_evaluations(result.replies)
        self._judge()
        self.participants.accepted.add(number, result.updates)
        self.version, self.state = number, result.state
        self.recorder.rounds.append(result.record)
        self._checkpoint.save(self.version, self.state)
        self._work_after_round()
        self._announce(result, time.perf_counter() - started)

    def _work_after_round(self) -> None:
        """The method's own work at the server, unless it is done: what the sites sent is safe on disk by now."""
        if not self._work.is_due(self.version):
            return
        self.state, seconds = self._work.perform(self.state, self.version)
        self.recorder.add_section(self.server)
        self.recorder.amend_round(seconds, state_digest(self.state))
        self._checkpoint.save(self.version, self.state)

    def _finish(self, deliver: Deliver) -> None:
        """Every site makes a personal model of the last and of the best global model, sampled before or not."""
        self._work.finish()
        self.recorder.add_section(self.server)
        self._ask_for_thresholds(deliver)
        self._evaluate_final(deliver, "last")
        self._judge()
        if self.best.version:
            self.recorder.best_by = self.config.primary_metric
        else:
            self._progress(Notice(reason=NOT_JUDGED))
        if self.best.version in (0, self.version):
            # Nothing was better (or nothing could be judged): the last model is the best one.
            self.best.version, self.best.state = self.version, self.state
            self.recorder.final["best"] = self.recorder.final["last"]
        else:
            self._evaluate_final(deliver, "best")

    def _ask_for_thresholds(self, deliver: Deliver) -> None:
        """The last version has not been evaluated yet: the final evaluation needs the thresholds that it gives."""
        classes, several = self.recorder.class_names, self.server.method.several_datasets
        if self.config.task == "classification" and len(classes) == 2 and not several:
            sites = self.participants.present()
            asked = self.participants.requests("evaluate", sites, self.state, round=self.version)
            self._note_evaluations(self._ask(deliver, asked))

    def _evaluate_final(self, deliver: Deliver, keep: Keep) -> None:
        version, state = (self.version, self.state) if keep == "last" else (self.best.version, self.best.state)
        self._progress(Personalizing(keep=keep, sites=personalizing(self.server, self.participants)))
        threshold = mean_threshold(self.recorder.evaluation(version, "global"))
        replies = ask_for_final(
            deliver,
            keep,
            version,
            state,
            self.server.declared_payload(self.version + 1),
            threshold=threshold,
            server=self.server,
            participants=self.participants,
            validation=self.validation,
        )
        if keep == "last":
            self._note_evaluations(replies)
        digest = self.recorder.digest(version) or state_digest(state)
        has_global = self.server.method.global_model
        self.recorder.final[keep] = final_models(version, digest, threshold, replies, has_global=has_global)

    # ---- for the engine ----------------------------------------------------------------------------------------

    def receive(self, site: str, reply: Reply) -> None:
        """Take one site's reply to the request that is open for it. Never raises for what a site sends."""
        self.validation.receive(site, reply)

    def is_waiting(self) -> bool:
        """Whether an answer to the open requests is still worth waiting for. To be asked all the time."""
        return self.attendance.is_waiting()

    def heard_late(self, site: str) -> None:
        """A site is ready with its answer to a request that is closed: nothing of it is taken, but the site is back."""
        self.attendance.heard_late(site)

    def so_far(self) -> Record:
        """The record as far as the run has got."""
        return self.recorder.record("running")

    def announce_end(self, record: Record) -> None:
        """Say that the run is complete: the last word, once its results are where they belong."""
        self._progress(Finished(rounds=self.version, seconds=record.run.seconds))

    # ---- small things ------------------------------------------------------------------------------------------

    def _ask(self, deliver: Deliver, broadcasts: Sequence[Broadcast]) -> dict[str, BaseModel]:
        return self.validation.ask(deliver, broadcasts, reference=self.state, known=self.recorder.sites)

    def _note_evaluations(self, replies: Mapping[str, BaseModel]) -> None:
        for site, reply in replies.items():
            received = getattr(reply, "received", None)
            if received is not None:
                self.recorder.add_evaluation(self.version, "global", site, received.of_a_round())
                self._notice_withheld(site, received)
            if isinstance(reply, TrainReply) and reply.trained is not None:
                self.recorder.add_evaluation(self.version + 1, "personal", site, reply.trained)

    def _notice_withheld(self, site: str, received: SiteMetrics) -> None:
        """Say, once a run and site, which of a site's metrics are missing from all means and choices."""
        declared = self.recorder.sites[site]
        parts = [part for part in ("validation", "test") if getattr(declared, part) and getattr(received, part) is None]
        if parts and site not in self._withholding:
            self._withholding.add(site)
            self._progress(Notice(reason=f"{site} withholds its {' and '.join(parts)} metrics, by its own limits"))

    def _warn(self, reasons: Sequence[str]) -> None:
        """Say what has not been said before."""
        for reason in reasons:
            if reason not in self._warned:
                self._warned.append(reason)
                self._progress(Warned(reason=reason))

    def _judge(self) -> None:
        if self.best.offer(self.version, self.state, self.recorder.evaluation(self.version, "global")):
            self.participants.accepted.mark_best()

    def _patience_is_over(self) -> bool:
        return self.config.patience is not None and self.best.stale >= self.config.patience

    def _announce(self, result: RoundResult, seconds: float) -> None:
        began_with = self.recorder.evaluation(result.record.round - 1, "global")
        self._progress(
            RoundDone(
                round=result.record.round,
                of=self.config.rounds,
                updates=len(result.updates),
                participants=len(result.record.participants),
                validation=validation_value(began_with, self.config.primary_metric),
                metric=self.config.primary_metric,
                seconds=seconds,
            )
        )
