"""Types of the record's numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Cases = Annotated[int, Field(ge=1, le=10_000_000)]
