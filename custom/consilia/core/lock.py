"""Hold a file for one process at a time."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from consilia.core.errors import RunFailed
from consilia.core.stop import never

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
WAITING = "waiting for another job to let go of a folder"


@contextlib.contextmanager
def locked(file: Path, patience: float = 0.0, should_stop: Callable[[], bool] = never) -> Iterator[None]:
    """Hold a lock file; the lock ends with the process, however that ends, and the file stays.

    Args:
        file: made, with its folder, if it is not there.
        patience: seconds to wait for another process to let go of it; -1 for as long as it takes.
        should_stop: polled while waiting.

    Raises:
        RunFailed: another process holds it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # Of the process, not of a thread: NVFlare ends a job in another thread than it began in. A file system without
    # locks is an error: a file that stands for the lock would outlive a killed process.
    lock = FileLock(file, mode=0o600, thread_local=False, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if patience == 0:
                raise
            log.info("%s: %s", WAITING, file.parent)
            lock.acquire(timeout=patience, poll_interval=POLL_SECONDS, cancel_check=should_stop)
    except Timeout:
        raise RunFailed(f"{file.parent} is in use by another job that is running") from None
    try:
        yield
    finally:
        lock.release()
