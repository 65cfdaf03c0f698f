"""Whether a request is one of the run's: the server chooses its numbers, the run's configuration bounds them."""

from __future__ import annotations

from consilia.core.errors import ConfigError
from consilia.federation.config import RunConfig
from consilia.federation.messages import Request


def is_evaluated(version: int, config: RunConfig) -> bool:
    """Whether the global model of a version is evaluated while the rounds go on."""
    return config.evaluate_every > 0 and version % config.evaluate_every == 0


def require_within(request: Request, config: RunConfig) -> None:
    """Refuse a request that the run has no place for.

    Raises:
        ConfigError: it names a round beyond the run's, evaluates where the run does not, or wants a client state of a
            round that has not been.
    """
    last = config.rounds - 1 if request.kind == "train" else config.rounds
    if request.round > last:
        raise ConfigError(
            f"request {request.kind} after {request.round} rounds: the run has {config.rounds}, and the last such "
            f"request comes after {last}"
        )
    during = request.evaluate or (request.kind == "evaluate" and not request.final)
    if during and not is_evaluated(request.round, config):
        raise ConfigError(
            f"request {request.kind} wants an evaluation after {request.round} rounds: evaluate_every is "
            f"{config.evaluate_every}"
        )
    if max(request.client_round, request.best_client_round) > request.round:
        raise ConfigError(f"request {request.kind} after {request.round} rounds names the client state of a later one")
