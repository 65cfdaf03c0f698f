"""The method's own work at the server between two rounds, and how far it has got."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from consilia.core.checkpoint import Kept
from consilia.core.errors import CheckpointError
from consilia.federation.config import RunConfig
from consilia.federation.progress import Progress
from consilia.federation.server_settings import ServerSettings
from consilia.methods.server import ServerAct, Workplace
from consilia.record.injection import Injection

FOLDER = "act"
"""Where the method keeps checkpoints within its own work, in the run's folder."""


def workplace(
    config: RunConfig, server: ServerSettings, folder: Path, tell: Progress, should_stop: Callable[[], bool]
) -> Workplace:
    """What a strategy finds at this server."""

    def model() -> nn.Module:
        return config.model.build(seed=config.seed, allowed=server.allow_models, folders=server.foundation_models)

    return Workplace(
        run=config.to_json(),
        model=model,
        foundation_models=server.foundation_models,
        data=server.data,
        folder=folder,
        seed=config.seed,
        tell=tell,
        should_stop=should_stop,
    )


class Acting:
    """Does the method's act once per round, and knows across interruptions whether it is done.

    Args:
        act: the method's, or None for a method that only aggregates.
    """

    def __init__(self, act: ServerAct | None) -> None:
        self._act = act
        self.done = 0

    def is_due(self, version: int) -> bool:
        """Whether the aggregated state of this version still awaits the act."""
        return self._act is not None and self.done != version

    def perform(self, state: Mapping[str, Tensor], version: int) -> tuple[Mapping[str, Tensor], float]:
        """The state after the act, and the seconds it took."""
        assert self._act is not None  # it is due
        started = time.perf_counter()
        state = self._act.act(state, version)
        self.done = version
        return state, time.perf_counter() - started

    def conclude(self) -> None:
        """When the rounds are over."""
        if self._act is not None:
            self._act.conclude()

    def report(self) -> Injection | None:
        """What the record tells of it."""
        return None if self._act is None else self._act.report()

    def save(self, folder: Path) -> None:
        """Leave what the method has made, if anything, in a folder."""
        if self._act is not None:
            self._act.save(folder)

    def file_number(self, version: int) -> int:
        """Names a state's file: a method that acts gives a round two states, one after the other."""
        return version if self._act is None else 2 * version + (version <= self.done)

    def models(self) -> dict[str, Kept]:
        """Its own tensors, for a checkpoint."""
        return {} if self._act is None or not self.done else {"act": Kept("act", self.done, self._act.tensors())}

    def restore(self, done: int, models: Mapping[str, Mapping[str, Tensor]], report: Injection | None) -> None:
        """Go on from a checkpoint. Raises :class:`CheckpointError` if it lacks the method's own state."""
        self.done = done
        if self._act is None or not done:
            return
        if report is None or "act" not in models:
            raise CheckpointError("the checkpoint lacks what the method had made at the server")
        self._act.restore(models["act"], report)
