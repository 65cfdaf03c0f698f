"""The halves of a method, for tests without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from consilia.core.stop import never
from consilia.data.dataset import SiteData
from consilia.methods import Client, ClientContext, Server, ServerContext, TrainingConfig
from consilia.methods.registry import make_method, method_config


def server_of(method: Any, model: nn.Module | None = None) -> Server[Any]:
    """The half at the server."""
    context = ServerContext(
        run={},
        model=lambda: model or nn.Linear(1, 1),
        foundation_models={},
        data=None,
        folder=Path(),
        seed=0,
        progress=lambda event: None,
        should_stop=never,
    )
    return make_method(method_config(method)).server(context)


def client_of(
    method: Any, model: nn.Module, data: SiteData, training: TrainingConfig, *, seed: int = 1, should_stop=never
) -> Client[Any]:
    """The half at a site."""
    return make_method(method_config(method)).client(ClientContext(model, data, training, seed, should_stop))
