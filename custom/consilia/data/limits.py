"""What a site lets jobs do: the section ``limits`` of its site.yaml, which nothing in a job can widen."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, ByteSize, Field, model_validator

from consilia.core.errors import LimitReached
from consilia.core.schema import Strict

SIZE = re.compile(r"\s*\d+(\.\d+)?\s*(B|[kKMGT]i?B|)\s*", re.IGNORECASE)


def _whole_size(value: Any) -> Any:
    """The value itself; ``ByteSize`` reads the beginning of a text, and of ``2,5 GB`` two bytes."""
    if isinstance(value, str) and not SIZE.fullmatch(value):
        raise ValueError("expected bytes, or a number with a point and one of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB")
    return value


Bytes = Annotated[ByteSize, BeforeValidator(_whole_size), Field(gt=0)]

NOT_BUILT = {
    "privacy": "differential privacy is not yet built",
    "min_cohort": "secure aggregation, whose sums it would bound, is not yet built",
}
"""Keys that would promise what this version does not do."""


class SiteLimits(Strict):
    """Limits on what a job may ask of a site; null = no limit. What they mean in full: docs/limits.md.

    ``max_rounds``, ``max_evaluations`` and ``max_hours`` count per approval of a job, over all its runs and resumes.
    Sizes are bytes, or texts such as ``2 GB``.
    """

    max_rounds: int | None = Field(200, ge=1, description="requests to train")
    max_local_epochs: int | None = Field(20, ge=1, description="passes over the training cases per request")
    max_learning_rate: float | None = Field(1.0, gt=0, description="times what else multiplies the gradient")
    max_batch_fraction: float | None = Field(0.5, gt=0, le=1, description="batch size / training cases")
    min_training_cases: int | None = Field(50, ge=1, description="fewest of a dataset that is trained on")
    min_cases_per_metric: int | None = Field(10, ge=1, description="fewest per class for a split's metrics to be sent")
    max_evaluations: int | None = Field(400, ge=1, description="requests that are answered with metrics")
    round_metrics: int | None = Field(3, ge=2, le=15, description="decimal digits of the metrics that are sent")
    max_model_bytes: Bytes | None = Field(ByteSize(2 * 10**9), description="of the model with its buffers")
    max_hours: float | None = Field(24.0, gt=0, description="of work on requests")
    max_memory: Bytes | None = Field(None, description="of the job's process at the site")
    max_disk: Bytes | None = Field(ByteSize(50 * 10**9), description="of everything in state_dir")

    @model_validator(mode="before")
    @classmethod
    def _built(cls, values: Any) -> Any:
        if not isinstance(values, dict | SiteLimits):
            raise ValueError("expected keys such as max_rounds: 200; without the section the defaults apply")
        for key, reason in NOT_BUILT.items():
            if isinstance(values, dict) and key in values:
                raise ValueError(f"{key}: {reason}: take the key out, nothing would hold it")
        return values


RESEARCH_LIMITS = SiteLimits(**dict.fromkeys(SiteLimits.model_fields))
"""None at all, for a study on one machine: what its federation writes into the site.yaml of each of its sites."""


def reached(limit: str, asked: str, allowed: str) -> LimitReached:
    """The refusal of a request: for the site's own log, since the server learns its class name only."""
    if limit.startswith("min_"):
        return LimitReached(f"limits.{limit}: this site has {asked}, and requires {allowed}")
    return LimitReached(f"limits.{limit}: the job asks {asked}, this site allows {allowed}")


def show_bytes(count: int) -> str:
    """A size as site.yaml has it, e.g. ``1.5 GB``."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} B"


def shown_limits(limits: SiteLimits) -> str:
    """The section of a site.yaml, with the units of sizes."""
    shown = ((name, getattr(limits, name)) for name in SiteLimits.model_fields)
    lines = (
        f"  {name}: {'null' if value is None else show_bytes(value) if isinstance(value, ByteSize) else value}"
        for name, value in shown
    )
    return "\n".join(("limits:", *lines, ""))
