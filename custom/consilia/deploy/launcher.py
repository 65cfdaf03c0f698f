"""Starts a job's process again when it was killed, so that NVFlare never hears of its death and the job goes on.

NVFlare 2.9 ends a whole job when the process of one participant has died. Its launcher of job processes is a component
of ``local/resources.json``; ``consilia site install`` puts one of these in its place. What the process was at is done
again: NVFlare hands a site the same task once more, whose request names the round's state that the site has on disk;
and the server goes on after its last full round.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from nvflare.apis.fl_constant import JobConstants
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobHandleSpec, JobReturnCode
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.process_launcher import ProcessHandle, ProcessJobLauncher
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher

from consilia.flare.nvflare_internals import PIECE_TIMEOUT, in_server_job, server_run_is_over, site_run_is_over

PAUSES = (1.0, 5.0, 25.0)
"""Seconds before a job's process is started again, the first, second and last time."""

PIECE_SECONDS = 60
"""NVFlare's own default is 600, and the server's process that sends a piece may have been killed and be back."""

log = logging.getLogger(__name__)


class RelaunchedProcess(JobHandleSpec):  # type: ignore[misc]
    """A job's process, and those that take its place when it is killed.

    Args:
        start: starts the process.
        over: whether the run has come to its end, so that a process that is killed in ending need not come back.
        job: its number, for the log.
    """

    def __init__(self, start: Callable[[], ProcessHandle], over: Callable[[], bool], job: str) -> None:
        super().__init__()
        self._start, self._over, self._job = start, over, job
        self._lock, self._stopped, self._ended = threading.Lock(), threading.Event(), threading.Event()
        self._process = start()

    def terminate(self) -> None:
        """End the process for good: the job was aborted, or is over."""
        with self._lock:
            self._stopped.set()
            self._process.terminate()

    def poll(self) -> int:
        """NVFlare's return code; ``UNKNOWN`` as long as the process runs or is to be started again."""
        return int(self._process.poll()) if self._ended.is_set() else JobReturnCode.UNKNOWN

    def wait(self) -> None:
        """Return when the process has ended and is not started again."""
        try:
            for attempt, pause in enumerate(PAUSES, start=1):
                if not self._was_killed():
                    return
                log.error(
                    "job %s: its process was killed by %s; it is started again in %.0f s (%d of %d times)",
                    *(self._job, self._signal(), pause, attempt, len(PAUSES)),
                )
                if self._stopped.wait(pause):
                    return
                with self._lock:
                    if not self._stopped.is_set():
                        self._process = self._start()
            if self._was_killed():
                log.error(
                    "job %s: its process was killed by %s once more, after %d new starts: the job ends here",
                    *(self._job, self._signal(), len(PAUSES)),
                )
        finally:
            self._ended.set()

    def _was_killed(self) -> bool:
        self._process.wait()
        return self._status() < 0 and not self._stopped.is_set() and not self._over()

    def _status(self) -> int:
        """As of ``subprocess``: below 0 it is a signal's number."""
        return int(self._process.adapter.poll() or 0)

    def _signal(self) -> str:
        number = -self._status()
        named = {item.value: item.name for item in signal.Signals}.get(number, f"signal {number}")
        return f"{named} (the kernel's for want of memory, perhaps)" if number == signal.SIGKILL else named


class _Relaunching(ProcessJobLauncher):  # type: ignore[misc]
    """Launches a job as NVFlare does, and again."""

    def launch_job(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> JobHandleSpec:
        """Start a job's process."""
        # A copy: NVFlare puts the next job's command into the same context.
        engine, job, now = fl_ctx.get_engine(), str(job_meta[JobConstants.JOB_ID]), fl_ctx.clone()
        launch = super().launch_job
        return RelaunchedProcess(lambda: launch(job_meta, now), lambda: self.is_over(engine, job), job)

    @abstractmethod
    def is_over(self, engine: Any, job: str) -> bool:
        """Whether a job's run has come to its end here."""


class SiteLauncher(_Relaunching, ClientProcessJobLauncher):  # type: ignore[misc]
    """In place of NVFlare's ``ClientProcessJobLauncher``.

    A job's process asks for a large model piece by piece (2 MB). It waits for each as long as the variable
    ``NVFLARE_TENSOR_STREAMING_PER_REQUEST_TIMEOUT`` of the environment says, or longer: 120 s were measured with 60.
    Without the variable it is :data:`PIECE_SECONDS`.
    """

    def __init__(self) -> None:
        super().__init__()
        # NVFlare launches a job's process with this process's environment.
        os.environ.setdefault(PIECE_TIMEOUT, str(PIECE_SECONDS))

    def is_over(self, engine: Any, job: str) -> bool:
        """As the job's process has told the site's own."""
        return site_run_is_over(engine, job)


class ServerLauncher(_Relaunching, ServerProcessJobLauncher):  # type: ignore[misc]
    """In place of NVFlare's ``ServerProcessJobLauncher``."""

    def __init__(self) -> None:
        super().__init__()
        if in_server_job():
            # NVFlare builds the server's components in every process of it, before anybody can reach that. Where one
            # stands in for a killed one, a site may send its update before the job is built, and NVFlare ends a process
            # that cannot read a tensor.
            from consilia.flare.messages import register_tensors

            register_tensors()

    def is_over(self, engine: Any, job: str) -> bool:
        """As the job's process has told the server's own."""
        return server_run_is_over(engine, job)
