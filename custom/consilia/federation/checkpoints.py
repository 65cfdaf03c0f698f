"""A run's checkpoint at the server: the global model, the best one, the method's own state, and the record so far."""

from __future__ import annotations

import logging
from pathlib import Path

from consilia.core.checkpoint import BEGIN_ANEW, CheckpointEntry, CheckpointStore
from consilia.core.errors import CheckpointError, described
from consilia.federation.participants import Participants
from consilia.federation.selection import BestRound
from consilia.federation.server_work import ServerWork
from consilia.methods.contract import State

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint"
"""Its folder, within the run's."""


class RunCheckpoint:
    """Saves the state of a run after every round, and goes on from it.

    Args:
        folder: the run's.
        participants: the run's sites, with the record.
        work: the method's half at the server.
        best: the best round so far.
    """

    def __init__(self, folder: Path, participants: Participants, work: ServerWork, best: BestRound) -> None:
        self.store = CheckpointStore(folder / CHECKPOINT)
        self._participants, self._work, self._best = participants, work, best
        self._run_id = participants.config.run_id

    def exists(self) -> bool:
        """Whether there is a state to go on from."""
        return self.store.exists()

    def save(self, version: int, state: State) -> None:
        """Write the checkpoint of a version, atomically."""
        recorder, best = self._participants.recorder, self._best
        own, server = self._work.checkpoint(version)
        models = {
            name: CheckpointEntry("state", self._work.file_number(number), tensors, recorder.digest(number))
            for name, number, tensors in (("global", version, state), ("best", best.version, best.state))
        }
        content = {
            "run_id": self._run_id,
            "version": version,
            "accepted": self._participants.accepted.to_json(),
            "server": server,
            "best": best.to_json(),
            "record": recorder.state(),
        }
        self.store.save(models | own, content)

    def restore(self) -> tuple[int, State]:
        """Put everything back in place; the version and the global state to go on from.

        Raises:
            CheckpointError: it belongs to another run, or is damaged.
        """
        checkpoint = self.store.load()
        content = checkpoint.state
        found = content.get("run_id")
        if found != self._run_id:
            raise CheckpointError(
                f"{self.store.folder} belongs to run {found}, this configuration is run {self._run_id}. "
                f"It goes on with the same settings alone, and with the very same plugin file. {BEGIN_ANEW}"
            )
        try:
            version, state = int(content["version"]), checkpoint.models["global"]
            self._best.restore(content["best"], checkpoint.models["best"])
            self._participants.recorder.restore(content["record"])
            self._participants.accepted.restore(content["accepted"])
            self._work.restore(content["server"], checkpoint.models)
        # A file edited by hand, or half of another one; pydantic raises ValueErrors.
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self.store.folder} holds a checkpoint with other content than is expected "
                f"({described(error)}). {BEGIN_ANEW}"
            ) from error
        log.info("resuming run %s after round %d", self._run_id, version)
        return version, state
