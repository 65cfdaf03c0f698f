"""The sites of a run in processes of their own on this machine, so that it uses more than one of its cores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from consilia.core.errors import RunFailed
from consilia.federation.config import RunConfig
from consilia.federation.messages import Broadcast, Reply
from consilia.federation.sites_here import Receive
from consilia.federation.worker_messages import as_bytes, raised, receive
from consilia.federation.worker_messages import send as send_message

SECONDS_TO_END = 10.0
"""So long a process may take to end when nobody asks it any more."""


class SitesInWorkers:
    """Sites in worker processes, started once for the run; a site stays where it is. Single-threaded each.

    What a site computes does not depend on the process it is in. What differs is the order in which sites answer.

    Args:
        config: the run.
        site_files: each site's site.yaml, by site name.
        folder: of the run, for what goes wrong.
        workers: processes, at most one per site.
        pages: see :class:`~consilia.federation.site.Site`.

    Raises:
        ConsiliaError: a site's configuration or data cannot be read.
        RunFailed: a process has ended.
    """

    def __init__(
        self, config: RunConfig, site_files: Mapping[str, Path], folder: Path, *, workers: int, pages: bool = True
    ) -> None:
        names = sorted(site_files)
        setup = {"config": config.to_json(), "folder": str(folder), "pages": pages}
        self._errors: dict[str, str] = {}
        self._workers: list[_Worker] = []
        try:
            for first in range(min(workers, len(names))):
                own = names[first :: min(workers, len(names))]
                worker = _Worker(own)
                self._workers.append(worker)
                worker.send({**setup, "sites": {name: str(site_files[name].absolute()) for name in own}})
            for worker in self._workers:
                worker.hear()
        except BaseException:
            self._end(at_once=True)
            raise
        self._worker_of = {name: worker for worker in self._workers for name in worker.sites}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(at_once=error is not None)

    def _end(self, *, at_once: bool) -> None:
        for worker in self._workers:
            worker.begin_to_end(at_once=at_once)
        for worker in self._workers:
            worker.end()

    def deliver(self, broadcasts: Sequence[Broadcast], take: Receive) -> None:
        """Ask the sites, and hand over every reply as it comes.

        Raises:
            RunFailed: a process has ended.
        """
        for item in broadcasts:
            tensors = as_bytes(item.tensors)
            for worker in self._workers:
                targets = [name for name in item.targets if self._worker_of[name] is worker]
                if targets:
                    request = item.request.model_dump(mode="json")
                    worker.waiting.append(({"request": request, "targets": targets}, tensors, len(targets)))
        for worker in self._workers:
            worker.ask_next()
        while busy := {worker.connection: worker for worker in self._workers if worker.unanswered}:
            for connection in wait(list(busy)):
                self._take(busy[connection], take)  # type: ignore[index]

    def _take(self, worker: _Worker, take: Receive) -> None:
        content, tensors = worker.hear()
        worker.unanswered -= 1
        worker.ask_next()
        site = content["site"]
        if content["described"] is not None:
            self._errors[site] = content["described"]
        take(site, Reply(content["content"], tensors or {}, content["error"]))

    def errors(self) -> Mapping[str, str]:
        """What went wrong with the last request of each site that failed, by site."""
        return self._errors


class _Worker:
    """One process, and what it has been asked.

    Attributes:
        unanswered: replies that are still to come for what it has been sent. It gets the next request after the last of
            them: two processes that write to each other at once may both wait for ever.
    """

    def __init__(self, sites: Sequence[str]) -> None:
        self.sites = list(sites)
        self.waiting: deque[tuple[dict[str, Any], bytes | None, int]] = deque()
        self.unanswered = 0
        self.connection, theirs = Pipe()
        # The modules that this process finds, its own plugins and models among them.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "consilia.federation.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            # Ctrl-C is for the run's process, which ends this one.
            start_new_session=True,
        )
        theirs.close()

    def send(self, content: Mapping[str, Any], tensors: bytes | None = None) -> None:
        """Send a message."""
        try:
            send_message(self.connection, content, tensors)
        except OSError as error:
            raise self._ended() from error

    def hear(self) -> tuple[dict[str, Any], dict[str, Tensor] | None]:
        """The next message; raises the error that it tells of."""
        try:
            content, tensors = receive(self.connection)
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if "raised" in content:
            raise raised(content)
        return content, tensors

    def ask_next(self) -> None:
        """Send the next request, if all before it are answered."""
        if self.waiting and not self.unanswered:
            content, tensors, self.unanswered = self.waiting.popleft()
            self.send(content, tensors)

    def begin_to_end(self, *, at_once: bool) -> None:
        """Let the process end: when it has done its work, or now."""
        self.connection.close()
        if at_once:
            self._process.terminate()

    def end(self) -> None:
        """Wait until it has ended."""
        try:
            self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ended(self) -> RunFailed:
        code = self._process.wait(SECONDS_TO_END)
        how = f"ended with status {code}"
        if code < 0:
            how = f"was killed ({signal.Signals(-code).name})"
        if code == -signal.SIGKILL:
            how += ", as the system does where memory runs out: with fewer workers a run needs less"
        return RunFailed(
            f"the process of {', '.join(self.sites)} {how}. Complete rounds are in the checkpoint: the same command "
            "goes on after them"
        )
