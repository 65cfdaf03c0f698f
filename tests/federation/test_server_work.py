"""The method's own work at the server."""

from __future__ import annotations

from typing import Any

import torch

from consilia.federation.server_work import ServerWork
from consilia.methods import Method, MethodConfig, Server
from consilia.methods.contract import State
from tests.methods.support import server_of


class Working(Server[MethodConfig]):
    """Notes with how many threads it works."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.threads: list[int] = []

    def after_round(self, state: State, round_number: int) -> State:
        self.threads.append(torch.get_num_threads())
        return state

    def finish(self) -> None:
        self.threads.append(torch.get_num_threads())


def test_the_server_works_with_the_threads_of_the_run() -> None:
    server = Working(Method(MethodConfig(method="none")), server_of("fedavg").context)
    work = ServerWork(server, threads=2)
    work.perform({}, 1)
    work.finish()
    assert server.threads == [2, 2]
    assert torch.get_num_threads() == 1
