"""FedKPer's parameters; the defaults are the released method."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from consilia.methods.config import MethodConfig


class FedKPerConfig(MethodConfig):
    """FedKPer and its ablations.

    ``weighting: samples`` keeps the alignment alone ("KD only"), ``gate_cap: 0`` keeps the aggregation alone, both
    together are FedAvg to the bit.
    """

    method: Literal["fedkper"] = "fedkper"
    temperature: float = Field(1.0, gt=0, description="tau of the alignment")
    gate_cap: float = Field(10.0, ge=0, description="lambda_max; 0 switches the alignment off")
    gate: Literal["batch", "sample"] = "batch"
    weighting: Literal["reliability_diversity", "samples"] = "reliability_diversity"
    reliability: Literal["train", "validation"] = "train"
