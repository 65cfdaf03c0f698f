"""The claims of a study file: one metric and one contrast each, written down before the test."""

from __future__ import annotations

from typing import Self

from pydantic import field_validator, model_validator

from consilia.core.schema import nearest
from consilia.evaluation.study_metrics import METRICS
from consilia.record.study_result import Statement

EQUIVALENT = {"auroc": 0.01, "auroc_weighted": 0.01, "auroc_pooled": 0.01}
"""By metric, the largest difference that counts as none, where a claim gives no other."""


class Claim(Statement):
    """A claim of a study file; see :class:`Statement`. Claims are adjusted for one another (Holm)."""

    @field_validator("metric")
    @classmethod
    def _known(cls, name: str) -> str:
        known = [metric.name for metrics in METRICS.values() for metric in metrics]
        if name not in known:
            raise ValueError(f"no metric {name!r} of a study; {nearest(name, known)}")
        return name

    @model_validator(mode="after")
    def _of_two(self) -> Self:
        if self.method == self.against:
            raise ValueError(f"method and against: expected two labels, got {self.method!r} twice")
        return self

    @property
    def margin(self) -> float | None:
        """The largest difference that counts as none."""
        return EQUIVALENT.get(self.metric) if self.equivalent_within is None else self.equivalent_within
