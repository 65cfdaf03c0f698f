"""FedAvg has no parameters of its own."""

from __future__ import annotations

from typing import Literal

from consilia.methods.config import MethodConfig


class FedAvgConfig(MethodConfig):
    """Federated averaging."""

    method: Literal["fedavg"] = "fedavg"
