"""Federated methods: the contract, the registry, and the methods that come with Consilia.

``from consilia.methods import Client, Method, ...`` is all that a method of one's own needs.
"""

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
