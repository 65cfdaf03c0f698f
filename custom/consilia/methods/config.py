"""Configuration shared by all methods. Objects are frozen and say at once what was expected and what came."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Base of every configuration object: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrainingConfig(Settings):
    """Local optimisation. The defaults are those of the FedKPer paper and its released code.

    ``optimiser: adamw`` (Loshchilov and Hutter 2019) takes torch's betas and leaves ``momentum`` aside; its state
    starts anew every round.
    """

    local_epochs: int = Field(5, ge=1)
    batch_size: int = Field(32, ge=1)
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-5, ge=0)
    learning_rate_decay: float = Field(0.99, gt=0, le=1, description="factor on the learning rate per round")
    gradient_clip: float | None = Field(None, gt=0, description="largest gradient norm; null for no clipping")
    personalise_epochs: int | None = Field(None, ge=1, description="epochs after the last round; null = local_epochs")
    device: Literal["auto", "cpu", "cuda"] = "auto"


class MethodConfig(Settings):
    """Base of the methods' own parameters; ``method`` tells them apart."""

    method: str
