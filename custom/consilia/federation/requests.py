"""Whether a request is one of the run's: the server chooses its numbers, the run's configuration bounds them."""

from __future__ import annotations

from consilia.core.errors import ConfigError
from consilia.federation.config import RunConfig
from consilia.federation.messages import Request


def is_evaluated(version: int, config: RunConfig) -> bool:
    """Whether the global model of a version is evaluated while the rounds go on."""
    return config.evaluate_every > 0 and version % config.evaluate_every == 0


def may_be_last(version: int, config: RunConfig) -> bool:
    """Whether a run may end with a version: after all its rounds, or after the round that followed a look in vain."""
    return version == config.rounds or (config.patience is not None and is_evaluated(version - 1, config))


def require_within(request: Request, config: RunConfig) -> None:
    """Refuse a request that the run has no place for.

    Raises:
        ConfigError: it names a round beyond the run's, evaluates where the run does not, has a threshold before the
            end, or wants a client state of a round that has not been.
    """
    last = config.rounds - 1 if request.kind == "train" else config.rounds
    if request.round > last:
        raise ConfigError(
            f"request {request.kind} after {request.round} rounds: the run has {config.rounds}, and the last such "
            f"request comes after {last}"
        )
    during = request.evaluate or (request.kind == "evaluate" and not request.final)
    # A last version is evaluated once more before the final evaluation, which its threshold is for.
    last_look = request.kind == "evaluate" and may_be_last(request.round, config)
    if during and not is_evaluated(request.round, config) and not last_look:
        raise ConfigError(
            f"request {request.kind} wants an evaluation after {request.round} rounds: evaluate_every is "
            f"{config.evaluate_every}"
        )
    if request.threshold is not None and not request.final:
        raise ConfigError(f"request {request.kind} has a threshold: only a final evaluation does")
    if max(request.client_round, request.best_client_round) > request.round:
        raise ConfigError(f"request {request.kind} after {request.round} rounds names the client state of a later one")
