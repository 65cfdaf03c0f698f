"""FedAvg at the server: weights are the sites' numbers of training cases."""

from __future__ import annotations

from consilia.methods.fedavg.config import FedAvgConfig
from consilia.methods.server import Strategy


class FedAvgStrategy(Strategy[FedAvgConfig]):
    """The shared strategy as it is."""
