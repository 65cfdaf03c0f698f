"""The global state that a run begins with."""

from __future__ import annotations

from torch import Tensor, nn

from consilia.federation.config import RunConfig
from consilia.methods.registry import make_method
from consilia.models.exchange import exchanged_state


def initial_state(config: RunConfig, model: nn.Module) -> dict[str, Tensor]:
    """What the run's method exchanges of a model, in the type in which it travels."""
    return exchanged_state(model, config.exchange_dtype, make_method(config.method).exchanged(model))
