"""Processes of a local federation: found by a mark in their environment, and ended without a trace.

NVFlare starts a process of its own session per job, which outlives its parent. Every process of a federation inherits
the variable ``CONSILIA_FEDERATION``, the federation's folder, by which it is found wherever it has moved to.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import psutil

MARK = "CONSILIA_FEDERATION"


def processes_of(folder: Path) -> list[psutil.Process]:
    """The living processes of the federation in ``folder``."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_all(folder: Path, grace: float = 4.0) -> None:
    """End them: first politely, after ``grace`` seconds at once. Repeats for what a dying parent has still started."""
    while living := processes_of(folder):
        for process in living:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        _, stubborn = psutil.wait_procs(living, timeout=grace)
        for process in stubborn:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(stubborn, timeout=grace)


def start_guard(folder: Path) -> subprocess.Popen[bytes]:
    """A process that ends the federation when this one has ended, even if it was killed. Close its stdin to end it."""
    return subprocess.Popen([sys.executable, __file__, str(folder)], stdin=subprocess.PIPE, start_new_session=True)


if __name__ == "__main__":
    # Nobody writes: reading ends when the last one who could is gone.
    sys.stdin.buffer.read()
    end_all(Path(sys.argv[1]))
