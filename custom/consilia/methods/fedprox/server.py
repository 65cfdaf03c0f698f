"""FedProx at the server is FedAvg."""

from __future__ import annotations

from consilia.methods.fedprox.config import FedProxConfig
from consilia.methods.server import Strategy


class FedProxStrategy(Strategy[FedProxConfig]):
    """The shared strategy as it is."""
