"""The yardstick of a method that acts at the server: the same acts on the server's public data, without any site."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from consilia.core.errors import ConfigError
from consilia.federation.acting import workplace
from consilia.federation.config import RunConfig
from consilia.federation.progress import Progress
from consilia.federation.record_keeper import RecordKeeper
from consilia.federation.server_settings import ServerSettings
from consilia.methods.catalogue import METHODS
from consilia.methods.learner import never
from consilia.models.exchange import exchanged_state


def public_only(config: RunConfig, server: ServerSettings, keeper: RecordKeeper, tell: Progress) -> None:
    """As many rounds of the server's act as the run has; what one leaves, the next begins with.

    Raises:
        ConfigError: the method does nothing at the server.
    """
    with TemporaryDirectory() as folder:
        place = workplace(config, server, Path(folder), tell, never)
        act = METHODS[config.method.method].strategy(config.method).server_act(place)
        if act is None:
            raise ConfigError(f"yardstick public-only is for a method that learns at the server, not {config.label}")
        state = exchanged_state(place.model())
        for number in range(1, config.rounds + 1):
            state = act.act(state, number)
            tell({"event": "round", "round": number, "of": config.rounds})
        act.conclude()
        keeper.injection = act.report()
