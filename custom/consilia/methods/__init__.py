"""Federated methods: the contract, the registry, and the methods that come with Consilia.

``from consilia.methods import Client, Method, ...`` is all that a method of one's own needs. The names are loaded when
they are asked for: what asks a method's package for its commands, or only for its name, loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from consilia.methods.client import CannotEvaluate, Client, ClientContext, Round, proximal_term
    from consilia.methods.config import MethodConfig, TrainingConfig
    from consilia.methods.contract import Method, ReplyField, State, TensorSpec, Update
    from consilia.methods.fit import Batch, FitResult
    from consilia.methods.server import Mean, Server, ServerContext, UpdateMetadata

__all__ = [
    "Batch",
    "CannotEvaluate",
    "Client",
    "ClientContext",
    "FitResult",
    "Mean",
    "Method",
    "MethodConfig",
    "ReplyField",
    "Round",
    "Server",
    "ServerContext",
    "State",
    "TensorSpec",
    "TrainingConfig",
    "Update",
    "UpdateMetadata",
    "proximal_term",
]

_MODULES = ("client", "config", "contract", "fit", "server")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in map(import_module, (f"{__name__}.{part}" for part in _MODULES)):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
