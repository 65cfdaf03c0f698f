"""The site's half as an NVFlare Executor."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nvflare.apis.dxo import from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from consilia.core.determinism import single_threaded
from consilia.core.errors import ConfigError, LimitReached, ReleaseRefused
from consilia.core.lock import locked
from consilia.core.plain import one_line
from consilia.data.site import load_site_config, own_site_file
from consilia.federation.config import RunConfig, require_version, run_config
from consilia.federation.messages import REQUESTS, Reply, Request
from consilia.federation.release_manifest import require_size
from consilia.federation.run_folder import LOCK, ORPHAN_SECONDS
from consilia.federation.site import Site
from consilia.federation.site_errors import note_error
from consilia.flare.approval import approval_filters
from consilia.flare.messages import CONTENT, register_tensors, reply_to_dxo
from consilia.flare.ready import ReadySignal
from consilia.methods.registry import AllowedMethods


class ConsiliaExecutor(Executor):  # type: ignore[misc]
    """Carries out prepare, train, evaluate and personalize with this site's data.

    The site's data are named by ``local/site.yaml`` of its startup kit (in the simulator, where all sites share one
    local folder, by ``local/sites/<site>.yaml``).

    Args:
        config: the run, as :meth:`consilia.federation.config.RunConfig.to_json` gives it.
        version: of Consilia, that made the job.
        release_manifest: what the site is asked to do and sends; its hospital approves it, and its filter holds it to
            that (:class:`consilia.flare.approval.ApprovalFilter`).
    """

    def __init__(self, config: dict[str, Any], version: str, release_manifest: dict[str, Any]) -> None:
        super().__init__()
        self.config, self.version, self.release_manifest = config, version, release_manifest
        self._site: Site | None = None
        self._state_dir: Path | None = None
        self._abort = Signal()
        self._ready = ReadySignal()
        self._held = ExitStack()
        register_tensors()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's events; only those between two tasks matter here."""
        self._ready.handle_event(event_type, fl_ctx)
        if event_type == EventType.END_RUN:
            self._held.close()

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Answer one task. A failure is answered too, by its kind; its reason stays in this site's log."""
        if task_name not in REQUESTS:
            return make_reply(ReturnCode.TASK_UNKNOWN)
        self._ready.task_began()
        self._abort = abort_signal
        reply = self._answer(task_name, shareable, fl_ctx)
        if abort_signal.triggered:
            return make_reply(ReturnCode.TASK_ABORTED)
        result: Shareable = reply_to_dxo(reply).to_shareable()
        return result

    def _answer(self, task_name: str, shareable: Shareable, fl_ctx: FLContext) -> Reply:
        try:
            dxo = from_shareable(shareable)
            request = Request.model_validate_json(dxo.get_meta_prop(CONTENT, ""))
            if request.kind != task_name:
                raise ConfigError(f"task {task_name!r} carries the content of request {request.kind!r}")
            approvals = approval_filters(fl_ctx)
            for approval in approvals:
                approval.require_approved(self.config, self.release_manifest, fl_ctx)
            with single_threaded():
                if self._site is None:
                    self._site = self._open_site(fl_ctx)
                if approvals:
                    require_size(self.release_manifest, self._site.model_size)
                return self._site.answer(request, dxo.data)
        except (Exception, SystemExit) as error:
            kind = type(error).__name__
            # These speak of no case; any other may, and NVFlare's log may be streamed to the server.
            speaks = isinstance(error, ConfigError | LimitReached | ReleaseRefused)
            detail = f": {one_line(error)}" if speaks else ""
            self.log_error(fl_ctx, f"task {task_name} failed with {kind}{self._noted(task_name, error)}{detail}")
            return Reply(error=kind)

    def _noted(self, task_name: str, error: BaseException) -> str:
        if self._state_dir is None:
            return ""
        return f"; see {note_error(self._state_dir, f'task {task_name}', error)}"

    def _open_site(self, fl_ctx: FLContext) -> Site:
        require_version(self.version)
        name = fl_ctx.get_identity_name()
        found = own_site_file(Path(fl_ctx.get_engine().get_workspace().get_site_config_dir()), name)
        settings = load_site_config(found)
        if settings.site != name:
            raise ConfigError(f"{found} is for site {settings.site!r}, this participant is {name!r}")
        self._state_dir = settings.state_dir
        allowed = AllowedMethods(settings.allow_methods, found)
        config: RunConfig = run_config(self.config, source="this job", allowed=allowed)
        site = Site(config, settings, should_stop=self._should_stop)
        # The same run twice at a time would mix up what the site keeps of it.
        self._held.enter_context(locked(site.folder / LOCK, ORPHAN_SECONDS, self._should_stop))
        self.log_info(
            fl_ctx, f"site {name}: {site.data.cases('train')} training cases, state in {site.folder}, {os.getpid()=}"
        )
        return site

    def _should_stop(self) -> bool:
        return bool(self._abort.triggered)
