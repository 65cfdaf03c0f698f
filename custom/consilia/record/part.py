"""What every part of the record is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from consilia.core.schema import Strict

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Cases = Annotated[int, Field(ge=1, le=10_000_000)]


class Part(Strict):
    """Base of the record's parts."""
