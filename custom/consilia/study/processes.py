"""Runs in processes of their own, several at a time; they end with the process that began them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.queues import Queue
from types import ModuleType, TracebackType
from typing import Self

from consilia.core.events import Event
from consilia.methods.registry import method_names
from consilia.study.one_run import Work, try_one
from consilia.study.outcome import Failure

ATTEMPTS = 2
"""How often a run is begun whose process is killed."""

POLL_SECONDS = 0.2
THREADS = "OMP_NUM_THREADS"


class Processes:
    """A pool of so many processes, single-threaded each.

    A process that is killed ends its pool: the runs that it held go on from their checkpoints in a new one.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._context = multiprocessing.get_context("spawn")
        self._events: Queue[tuple[int, Event]] = self._context.Queue()
        self._runs: dict[Future[Failure | None], tuple[int, Work]] = {}
        self._attempts: dict[int, int] = {}
        self._threads = os.environ.get(THREADS)

    def __enter__(self) -> Self:
        # Libraries read it when they are loaded, which is in the new processes.
        os.environ[THREADS] = "1"
        self._pool = self._new_pool()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for process in list((getattr(self._pool, "_processes", None) or {}).values()):
                process.terminate()
        self._pool.shutdown(cancel_futures=True)
        self._events.close()
        if self._threads is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = self._threads

    def begin(self, place: int, work: Work) -> None:
        """Begin a run; ``place`` is its number."""
        self._attempts[place] = self._attempts.get(place, 0) + 1
        with _without_main():
            self._runs[self._pool.submit(_in_process, place, work)] = (place, work)

    def running(self) -> int:
        """How many runs go on."""
        return len(self._runs)

    def hear(self) -> tuple[list[tuple[int, Event]], list[tuple[int, Failure | None]]]:
        """The events of a moment, and the runs that have ended in it, each with its failure."""
        done = wait(self._runs, POLL_SECONDS, FIRST_COMPLETED).done
        if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
            # All of its runs have ended then.
            done = wait(self._runs).done
        events = []
        while not self._events.empty():
            events.append(self._events.get())
        ended, killed = list[tuple[int, Failure | None]](), list[tuple[int, Work]]()
        for future in done:
            run = self._runs.pop(future)
            if isinstance(future.exception(), BrokenProcessPool):
                killed.append(run)
            else:
                ended.append((run[0], future.result()))
        return events, ended + self._begin_again(killed)

    def _begin_again(self, killed: list[tuple[int, Work]]) -> list[tuple[int, Failure | None]]:
        """Nobody knows whose process was killed: each run goes on, but not for ever. Those that do not."""
        if not killed:
            return []
        self._pool.shutdown()
        # A process that is killed while it writes holds the old one's lock for ever.
        self._events = self._context.Queue()
        self._pool = self._new_pool()
        given_up = list[tuple[int, Failure | None]]()
        for place, work in killed:
            if self._attempts[place] < ATTEMPTS:
                self.begin(place, work)
            else:
                # Not written down: with more memory it may do.
                reason = f"its process was killed {ATTEMPTS} times: fewer runs at a time (--jobs) need less memory"
                given_up.append((place, Failure(run_id=work.config.run_id, status="failed", reason=reason)))
        return given_up

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._count, self._context, _begin, (self._events, os.getpid()))


@contextmanager
def _without_main() -> Iterator[None]:
    """Inside the block a new process does not run the caller's script once more, which would begin the study again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


_events: Queue[tuple[int, Event]] | None = None


def _begin(events: Queue[tuple[int, Event]], parent: int) -> None:
    """In a new process: Ctrl-C is its parent's business, and it does not outlive a parent that is killed."""
    global _events
    _events = events
    events.cancel_join_thread()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A run's configuration is of a class of the plugin's, which must be there before the run arrives.
    method_names()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _in_process(place: int, work: Work) -> Failure | None:
    def report(event: Event) -> None:
        if _events is not None:
            _events.put((place, event))

    return try_one(work, report)
