"""``python -m consilia.federation.worker``: the process of some of a run's sites; only a run starts it.

It ends when the run's process closes the connection, or has ended itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from torch import Tensor

from consilia.core.determinism import single_threaded
from consilia.core.errors import ConsiliaError
from consilia.federation.config import run_config
from consilia.federation.failures import failures_explained
from consilia.federation.messages import Broadcast, Reply, Request
from consilia.federation.sites_here import SitesHere
from consilia.federation.worker_messages import as_bytes, error_content, receive, send


def serve(connection: Connection) -> None:
    """Open the sites that the first message names, and answer every request to them until nobody asks any more."""
    parent = os.getppid()
    setup, _ = receive(connection)
    folder = Path(setup["folder"])
    try:
        with single_threaded():
            with failures_explained(folder):
                sites = SitesHere(
                    run_config(setup["config"]),
                    {name: Path(file) for name, file in setup["sites"].items()},
                    # A process whose parent was killed gets another one.
                    should_stop=lambda: os.getppid() != parent,
                    pages=setup["pages"],
                )
            send(connection, {})
            while True:
                # It ends here, by an EOFError, when the run has no more requests.
                message = receive(connection)
                with failures_explained(folder):
                    _answer(connection, sites, *message)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except (ConsiliaError, OSError) as error:
        send(connection, error_content(error))


def _answer(
    connection: Connection, sites: SitesHere, content: Mapping[str, Any], tensors: Mapping[str, Tensor] | None
) -> None:
    def reply_of(site: str, reply: Reply) -> None:
        answer = {"site": site, "content": reply.content, "error": reply.error, "described": sites.errors().get(site)}
        send(connection, answer, as_bytes(reply.tensors) if reply.tensors else None)

    request = Request.model_validate(content["request"])
    sites.deliver([Broadcast(request, content["targets"], tensors)], reply_of)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
