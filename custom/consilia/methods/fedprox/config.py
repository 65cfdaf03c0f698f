"""FedProx's one parameter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from consilia.methods.config import MethodConfig


class FedProxConfig(MethodConfig):
    """FedProx; ``mu`` = 0 is FedAvg."""

    method: Literal["fedprox"] = "fedprox"
    mu: float = Field(0.1, ge=0, description="strength of the proximal term")
