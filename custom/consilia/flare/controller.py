"""The server's half as an NVFlare ModelController."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.app_constant import AppConstants

from consilia.core.determinism import single_threaded
from consilia.core.errors import ConsiliaError, RunFailed, TrainingStopped
from consilia.core.events import Event, Failed, Notice, RoundDone
from consilia.core.lock import locked
from consilia.core.plain import one_line
from consilia.federation.config import RunConfig, require_version, run_config
from consilia.federation.coordinator import Coordinator
from consilia.federation.failures import failures_explained
from consilia.federation.messages import Broadcast, Reply
from consilia.federation.outputs import EVENTS, copy_outputs, write_outputs
from consilia.federation.run_folder import LOCK, PROGRESS, ended_before, recorded, remove_outputs, take_over
from consilia.federation.server_settings import SERVER_FILE, ServerSettings, load_server_settings
from consilia.flare.messages import IS_COMPLETE, PROGRESS_TOPIC, broadcast_to_model, model_to_reply, register_tensors
from consilia.flare.nvflare_internals import JOB_NUMBER, EveryAnswerController, watch_arrivals
from consilia.flare.ready import announce
from consilia.methods.registry import AllowedMethods, make_method
from consilia.methods.shown import scalars_of
from consilia.record.schema import Record
from consilia.report.tensorboard import EventLog

log = logging.getLogger(__name__)

STARTED_AGAIN = "the job's process at the server was killed and has been started again: the run goes on"

ASKED_AGAIN = (
    "asks for its task once more and does it anew: its process was killed and has been started again, or the task was "
    "lost on the way"
)

MAX_EVENTS = 500
"""Events in one answer to an administrator."""


class RunAborted(ConsiliaError):
    """The job was aborted by an administrator or by NVFlare."""


class ConsiliaController(EveryAnswerController):
    """Leads a run: hands the coordinator's requests to NVFlare and the sites' replies back.

    Checkpoints and results go to ``state_dir`` of the server's ``local/server.yaml``; results also to ``consilia/`` in
    the job's run folder, which NVFlare keeps with the job. A clone of a job goes on after that job's last full round; a
    newly submitted one starts anew.

    Args:
        config: the run, as :meth:`consilia.federation.config.RunConfig.to_json` gives it.
        version: of Consilia, that made the job.
        persistor_id: component that builds the initial model.
        task_check_period: seconds between looks at whether a task is complete: a floor on every round.
    """

    def __init__(
        self,
        config: dict[str, Any],
        version: str,
        persistor_id: str = AppConstants.DEFAULT_PERSISTOR_ID,
        task_check_period: float = 0.02,
    ) -> None:
        # A site's failure is an event that the coordinator counts against the round's minimum, not a reason to panic.
        super().__init__(persistor_id=persistor_id, task_check_period=task_check_period, ignore_result_error=True)
        self.config, self.version = config, version
        self.persistor_id, self.task_check_period = persistor_id, task_check_period
        self._coordinator: Coordinator
        self._folder: Path | None = None
        self._events: EventLog | None = None
        register_tensors()

    def run(self) -> None:
        """NVFlare's entry point."""
        self.engine.register_app_command(PROGRESS_TOPIC, self._progress_so_far)
        try:
            with single_threaded():
                self._run()
        except RunAborted as error:
            self.warning(str(error))
        except TrainingStopped as error:
            # The server's own training polls the abort signal, as the sites' does.
            self.warning(f"{error}; the last full round is in the checkpoint")
        except (ConsiliaError, OSError) as error:
            found = f"the server cannot go on: {error}" if isinstance(error, OSError) else str(error)
            # One line: it may quote the job.
            reason = one_line(found)
            self._report_progress(Failed(reason=reason))
            self.panic(reason)
        finally:
            # The sites' next question is answered with the end of the run.
            announce([client.name for client in self.engine.get_clients()], self.fl_ctx)

    def _run(self) -> None:
        require_version(self.version)
        workspace, job_id = self.engine.get_workspace(), self.fl_ctx.get_job_id()
        kit = Path(workspace.get_root_dir())
        server_file = Path(workspace.get_site_config_dir()) / SERVER_FILE
        settings = load_server_settings(server_file)
        allowed = AllowedMethods(settings.allow_methods, server_file)
        config = run_config(self.config, source="this job", allowed=allowed)
        folder = settings.run_folder(job_id, kit)
        earlier = _cloned_from(Path(workspace.get_job_meta_path(job_id)))
        if earlier is not None:
            take_over(settings.run_folder(earlier, kit), folder, self._should_stop)
            self.info(f"going on with the state of job {earlier}")
        # Administrators download the job's run folder; checkpoints stay where they are.
        published = Path(workspace.get_run_dir(job_id)) / "consilia"
        private = make_method(config.method).private_files
        with locked(folder / LOCK):
            self._folder = folder
            if settings.engine == "sim":
                # There all runs of a configuration have one folder.
                remove_outputs(folder)
            ended = ended_before(folder)
            if ended:
                # The process was killed in ending: nothing is left to do.
                self._announce_complete(config.run_id, published)
                return
            if ended is not None:
                self._report_progress(Notice(reason=STARTED_AGAIN))
            try:
                with failures_explained(folder):
                    record = self._lead(config, settings, folder)
                copy_outputs(folder, published, private)
            except BaseException:
                with suppress(OSError):
                    copy_outputs(folder, published, private)
                raise
            self._coordinator.announce_end(record)
            self._announce_complete(config.run_id, published)

    def _announce_complete(self, run_id: str, published: Path) -> None:
        assert self._folder is not None
        with suppress(OSError):
            shutil.copy2(self._folder / PROGRESS, published)
        self.info(f"run {run_id} {IS_COMPLETE} {self._folder}")

    def _lead(self, config: RunConfig, settings: ServerSettings, folder: Path) -> Record:
        # Where a result cannot be read, NVFlare ends this process and does not say by whom.
        watch_arrivals(self.engine, lambda site: log.info("a result of %s has arrived", site))
        sites = [client.name for client in self.engine.get_clients()]
        initial = self.load_model()
        if initial is None:
            raise RunFailed("the initial model could not be loaded")
        coordinator = Coordinator(
            config,
            sites,
            initial.params,
            folder,
            all_parameters=self.engine.get_component(self.persistor_id).all_parameters,
            server=settings,
            progress=self._report_progress,
            should_stop=self._should_stop,
        )
        self._coordinator = coordinator
        self._events = EventLog(folder / EVENTS)
        try:
            record = coordinator.run(self._deliver)
        finally:
            self._events.close()
        write_outputs(folder, coordinator, record)
        self.save_model(FLModel(params_type=ParamsType.FULL, params=dict(coordinator.state)))
        return record

    def _deliver(self, broadcasts: Sequence[Broadcast]) -> None:
        for item in broadcasts:
            self.broadcast_model(
                broadcast_to_model(item),
                task_name=item.request.kind,
                targets=list(item.targets),
                blocking=False,
                callback=self.receive,
            )
            if item.request.kind != "prepare":
                # That is what a site asks for unasked, as soon as its process is up.
                announce(item.targets, self.fl_ctx)
        # NVFlare itself ends a task that only sites have not answered which it has not heard for minutes.
        while self._coordinator.is_waiting() and self.get_num_standing_tasks():
            self._check_abort()
            time.sleep(self.task_check_period)
        self._check_abort()
        # A site that comes back is to be given the next request, not this one.
        self.cancel_all_tasks()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's: hands a site the same task once more where the site asks for one and owes an answer."""
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.BEFORE_TASK_DATA_FILTER and fl_ctx.get_prop(FLContextKey.IS_CLIENT_TASK_RESEND):
            site = fl_ctx.get_peer_context().get_identity_name()
            self._report_progress(Notice(reason=f"{site}: {ASKED_AGAIN}"))

    def _should_stop(self) -> bool:
        return bool(self.abort_signal.triggered)

    def _check_abort(self) -> None:
        # Neither a panic nor an abort raises by itself: going on would aggregate the survivors.
        if self._should_stop():
            raise RunAborted("the job was aborted; the last full round is in the checkpoint")

    def hear(self, site: str, model: FLModel) -> None:
        """A site's reply."""
        self._coordinator.receive(site, model_to_reply(model))

    def hear_nothing(self, site: str, error: str) -> None:
        """A site has answered, with what is no reply."""
        self._coordinator.receive(site, Reply(error=error))

    def hear_late(self, site: str) -> None:
        """A site has an answer to a task that has ended."""
        self._coordinator.heard_late(site)

    def _report_progress(self, event: Event) -> None:
        """Append to progress.jsonl, which the command line follows, and to TensorBoard's events.

        A full disk must not make of a note the reason why a run ends: what cannot do without it says so itself.
        """
        with suppress(OSError):
            if self._folder is not None:
                recorded(self._folder)(event)
            if isinstance(event, RoundDone) and self._events is not None:
                record = self._coordinator.so_far()
                self._events.update(record, scalars_of(record))

    def _progress_so_far(self, topic: str, data: Any, fl_ctx: FLContext) -> dict[str, Any]:
        """Answer an administrator who follows the run: the events from a number on."""
        path = None if self._folder is None else self._folder / PROGRESS
        lines = path.read_text().splitlines(keepends=True) if path is not None and path.is_file() else []
        whole = [line for line in lines if line.endswith("\n")]
        start = data.get("from", 0) if isinstance(data, dict) else 0
        news = whole[start : start + MAX_EVENTS] if isinstance(start, int) and start >= 0 else []
        return {"events": [json.loads(line) for line in news], "next": start + len(news)}


def _cloned_from(meta: Path) -> str | None:
    """The job that this one is a clone of. NVFlare's numbers are UUIDs; nothing else may become a folder's name."""
    found = json.loads(meta.read_text()).get(JobMetaKey.CLONED_FROM.value) if meta.is_file() else None
    return found if isinstance(found, str) and JOB_NUMBER.fullmatch(found) else None
