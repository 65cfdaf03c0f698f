"""The method's half at the server within a run: its state in checkpoints, and how far its own work has got."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from consilia.core.checkpoint import CheckpointEntry
from consilia.core.determinism import torch_threads
from consilia.core.errors import CheckpointError
from consilia.core.events import Progress
from consilia.core.stop import StopSignal
from consilia.federation.config import RunConfig
from consilia.federation.server_settings import ServerSettings
from consilia.federation.site_store import split_state
from consilia.methods.contract import State
from consilia.methods.registry import make_method
from consilia.methods.server import Server, ServerContext

FOLDER = "act"
"""Where the method keeps checkpoints within its own work, in the run's folder."""


def open_server(
    config: RunConfig, settings: ServerSettings, folder: Path, progress: Progress, should_stop: StopSignal
) -> Server[Any]:
    """The method's half at this server."""

    def model() -> nn.Module:
        return config.model.build(seed=config.seed, allowed=settings.allow_models, folders=settings.foundation_models)

    context = ServerContext(
        run=config.to_json(),
        model=model,
        foundation_models=settings.foundation_models,
        data=settings.data,
        folder=folder,
        seed=config.seed,
        progress=progress,
        should_stop=should_stop,
    )
    return make_method(config.method).server(context)


class ServerWork:
    """Knows across interruptions whether the method's work after a round is done, and keeps its state.

    Args:
        server: the method's half.
        threads: of torch while it works.
    """

    def __init__(self, server: Server[Any], threads: int) -> None:
        self.server, self.threads = server, threads
        self.done = 0
        self._works = server.works_after_rounds()

    def is_due(self, version: int) -> bool:
        """Whether the aggregated state of this version still awaits the method's work."""
        return self._works and self.done != version

    def perform(self, state: State, version: int) -> tuple[State, float]:
        """The state after the work, and the seconds it took."""
        started = time.perf_counter()
        with torch_threads(self.threads):
            state = self.server.worked_on(state, version)
        self.done = version
        return state, time.perf_counter() - started

    def finish(self) -> None:
        """The work when the rounds are over."""
        with torch_threads(self.threads):
            self.server.finish()

    def file_number(self, version: int) -> int:
        """Names a state's file: with work after rounds a round has two states, one after the other."""
        return 2 * version + (version <= self.done) if self._works else version

    def checkpoint(self, version: int) -> tuple[dict[str, CheckpointEntry], dict[str, Any]]:
        """The method's own state: tensors as a model of the checkpoint, and what is JSON.

        Raises:
            ConfigError: the state holds what is neither.
        """
        tensors, values = split_state(self.server.state_dict(), "server")
        models = {"server": CheckpointEntry("server", self.file_number(version), tensors)} if tensors or values else {}
        return models, {"done": self.done, "values": values}

    def restore(self, saved: Mapping[str, Any], models: Mapping[str, State]) -> None:
        """Go on from a checkpoint. Raises :class:`CheckpointError` if it lacks the method's own state."""
        self.done = saved["done"]
        state = {**models.get("server", {}), **saved["values"]}
        if self.server.state_dict() and not state:
            raise CheckpointError("the checkpoint lacks the state of the method's half at the server")
        self.server.load_state_dict(state)
