"""Configuration shared by all methods. Objects are frozen and say at once what was expected and what came."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from consilia.core.schema import Strict
from consilia.data.augmentation import AugmentationChoice


class TrainingConfig(Strict):
    """Local optimisation. The defaults are those of the FedKPer paper and its released code.

    ``optimiser: adam`` (Kingma and Ba 2015) and ``adamw`` (Loshchilov and Hutter 2019) take torch's betas and leave
    ``momentum`` aside; their state starts anew every round.
    """

    local_epochs: int = Field(5, ge=1, description="passes over a site's training cases in a round")
    local_steps: int | None = Field(
        None, ge=1, description="optimiser steps in a round instead of passes; the next round goes on in the data"
    )
    batch_size: int = Field(32, ge=1, description="training cases of one optimiser step")
    last_batch: Literal["join", "keep"] = Field(
        "join", description="of a pass, where it has one case: joins the batch before, for BatchNorm; or stays a batch"
    )
    eventless_batches: Literal["skip", "step"] = Field(
        "skip", description="of a survival: no step, or one along what else there is (momentum, a proximal term)"
    )
    optimiser: Literal["sgd", "adam", "adamw"] = Field("sgd", description="its state starts anew every round")
    learning_rate: float = Field(0.01, gt=0, description="of the first round")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(1e-5, ge=0, description="L2 penalty of sgd and adam; decoupled with adamw")
    learning_rate_decay: float = Field(0.99, gt=0, le=1, description="factor on the learning rate per round")
    gradient_clip: float | None = Field(None, gt=0, description="largest gradient norm; null for no clipping")
    personalise_epochs: int | None = Field(None, ge=1, description="epochs after the last round; null = as in a round")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    threads: int = Field(
        1, ge=1, le=256, description="of torch at every site and at the server; equal threads give equal bytes"
    )
    class_weights: Literal["balanced"] | None = Field(
        None, description="balanced: a site's cross-entropy weighs each class by the inverse of its frequency there"
    )
    augmentation: AugmentationChoice = Field(
        None, description="of training images: null, images (a preset), or flip, shift, rotate, scale, intensity"
    )


TRIM = 0.2


class RobustConfig(Strict):
    """How the server guards a round against what single sites may send (docs/robust.md). The default guards nothing."""

    rule: Literal["mean", "median", "trimmed_mean"] = Field(
        "mean", description="how updates are combined, coordinate by coordinate"
    )
    trim: float = Field(TRIM, gt=0, lt=0.5, description="of trimmed_mean: fraction of the sites dropped at either end")
    clip_norm: Annotated[float, Field(gt=0)] | Literal["median"] | None = Field(
        None, description="L2 norm to which an update's larger change is scaled down; median: of the round's norms"
    )

    @model_validator(mode="after")
    def _nothing_in_vain(self) -> RobustConfig:
        # Who sets trim believes to be guarded by it.
        if self.trim != TRIM and self.rule != "trimmed_mean":
            raise ValueError(f"trim is of rule trimmed_mean, the rule is {self.rule}")
        return self


class MethodConfig(Strict):
    """Base of the methods' own parameters; ``method`` is the name by which the method is registered."""

    method: str = Field(description="its name, as consilia methods lists it")
