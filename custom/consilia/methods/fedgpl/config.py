"""Fed-GPL's one parameter; prompt length and generator are arguments of the model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from consilia.methods.config import MethodConfig


class FedGPLConfig(MethodConfig):
    """Fed-GPL."""

    method: Literal["fedgpl"] = "fedgpl"
    watch_images: int = Field(64, ge=2, description="training images over which a site measures the individuality")
