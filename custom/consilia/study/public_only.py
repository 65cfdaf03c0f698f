"""The baseline of a method that works at the server: the same work on the server's public data, without any site."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from consilia.core.errors import CannotTrain
from consilia.core.events import Progress, RoundDone
from consilia.core.stop import never
from consilia.federation.config import RunConfig
from consilia.federation.initial import initial_state
from consilia.federation.recorder import Recorder
from consilia.federation.server_settings import ServerSettings
from consilia.federation.server_work import open_server
from consilia.methods.contract import State


def public_only(config: RunConfig, server: ServerSettings, recorder: Recorder, progress: Progress) -> None:
    """As many rounds of the server's act as the run has; what one leaves, the next begins with.

    Raises:
        CannotTrain: the method does nothing at the server.
    """
    with TemporaryDirectory() as folder:
        half = open_server(config, server, Path(folder), progress, never)
        if not half.works_after_rounds():
            raise CannotTrain(f"baseline public-only is for a method that learns at the server, not {config.label}")
        state: State = initial_state(config, half.context.model())
        for number in range(1, config.rounds + 1):
            state = half.after_round(state, number)
            progress(RoundDone(round=number, of=config.rounds))
        half.finish()
        recorder.add_section(half)
