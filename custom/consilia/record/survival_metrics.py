"""The record's metrics of a survival model on one split of one site. See docs/result-schema.md."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, SerializerFunctionWrapHandler, model_serializer, model_validator

from consilia.core.schema import Strict
from consilia.record.split_metrics import Interval, only_where_found
from consilia.record.types import Cases, Fraction


class SurvivalMetrics(Strict):
    """A survival model on one split of one site.

    ``events``: cases whose follow-up ended with the event. ``c_index``: Harrell's, null where no two cases can be
    compared; ``loss``: the negative log partial likelihood divided by the number of cases, null without an event.
    ``patients`` and ``intervals`` are of final evaluations, on test cases.
    """

    count: Cases
    events: NonNegativeInt
    c_index: Fraction | None
    loss: Annotated[float, Field(ge=0, le=1e9)] | None
    patients: NonNegativeInt | None = None
    intervals: dict[Literal["c_index"], Interval] = Field(default_factory=dict)

    def of_a_round(self) -> SurvivalMetrics:
        """Without what only a final evaluation has."""
        return self.model_copy(update={"patients": None, "intervals": {}})

    @model_validator(mode="after")
    def _consistent(self) -> SurvivalMetrics:
        for name, found in (("events", self.events), ("patients", self.patients or 0)):
            if found > self.count:
                raise ValueError(f"{name}: {found} of {self.count} cases")
        if self.events == 0 and not (self.c_index is self.loss is None):
            raise ValueError(f"without an event there is no c_index and no loss, got {self.c_index} and {self.loss}")
        if self.intervals and self.c_index is None:
            raise ValueError("intervals has one of c_index, which is null")
        return self

    @model_serializer(mode="wrap")
    def _without_the_missing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return only_where_found(handler(self))
