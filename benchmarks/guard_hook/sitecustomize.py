"""Run by Python in each process of :mod:`benchmarks.guard_cost`: the guard of messages stands there, and is timed."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND
LOOKS = os.environ.get("CONSILIA_GUARD_LOOKS")


def stand() -> None:
    """Have the guard look at every cell of this process; a line for each look: whose, when, and its nanoseconds."""
    from nvflare.fuel.f3.cellnet.core_cell import CoreCell

    from consilia.deploy.message_guard import MessageGuard

    guard, start = MessageGuard(), CoreCell.start
    check, lines = guard._check_sender, os.open(Path(str(LOOKS)) / str(os.getpid()), FLAGS, 0o600)

    def look(message: Any, me: str) -> Any:
        begin = time.thread_time_ns()
        answer = check(message, me)
        os.write(lines, f"{me} {time.time()} {time.thread_time_ns() - begin}\n".encode())
        return answer

    def begin(cell: Any) -> None:
        cell.add_incoming_filter("*", "*", look, cell.get_fqcn())
        start(cell)

    CoreCell.start = begin


# Only where NVFlare runs: other programs that a process starts are not about messages.
if LOOKS and any("nvflare" in argument or "consilia.flare" in argument for argument in sys.orig_argv):
    stand()
