"""What every part of the record is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Cases = Annotated[int, Field(ge=1, le=10_000_000)]


class Part(BaseModel):
    """Base of the record's parts: unknown keys and NaN are refused; JSON uses the aliases ``schema`` and ``global``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True)
