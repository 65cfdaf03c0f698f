"""The personal model that a site makes of the global one after the rounds."""

from __future__ import annotations

from typing import Any

from consilia.federation.config import RunConfig
from consilia.methods.client import Client, Round
from consilia.methods.contract import State
from consilia.models.exchange import require_names


def make_personal(client: Client[Any], config: RunConfig, rounds: int, state: State, payload: State) -> State:
    """Let the method make it of the global model after so many rounds; the client holds it then.

    Raises:
        CheckpointError: the method gives other tensors than the model trains.
    """
    found = client.personalize(Round(rounds + 1, state, payload, config.training.personalise_epochs))
    require_names(found, list(client.state()))
    client.load(found)
    return found
