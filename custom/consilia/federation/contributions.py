"""What the record holds of what sites reported and of messages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from consilia.aggregation import normalised
from consilia.federation.messages import Broadcast, EvaluateReply, PersonalizeReply, TrainReply, payload_bytes
from consilia.methods.contract import Method, declared_fields
from consilia.methods.server import Weights
from consilia.record.schema import Contribution, FieldInfo, SiteMetrics


def contributions(
    updates: Mapping[str, TrainReply], weights: Weights, factors: Mapping[str, float]
) -> dict[str, Contribution]:
    """By site: its share of the aggregate, what it reported, and the factor by which its update was clipped."""
    shares = normalised({site: _total(weight) for site, weight in weights.items()})
    return {
        site: Contribution(
            weight=shares[site],
            samples=reply.cases,
            fields=_reported(reply),
            clipped=factors.get(site),
        )
        for site, reply in updates.items()
    }


def field_infos(method: Method[Any]) -> dict[str, FieldInfo]:
    """What the record says of the numbers that a method's sites report, by name; of a claimed weight too."""
    return {
        name: FieldInfo(heading=field.heading or name.replace("_", " ").capitalize(), meaning=field.meaning)
        for name, field in declared_fields(method).items()
    }


def variants(replies: Mapping[str, BaseModel]) -> dict[str, dict[str, SiteMetrics]]:
    """Metrics of the global model's variants in the replies, by variant and site."""
    found: dict[str, dict[str, SiteMetrics]] = {}
    for site, reply in replies.items():
        if isinstance(reply, (EvaluateReply, PersonalizeReply)):
            for name, metrics in reply.variants.items():
                found.setdefault(name, {})[site] = metrics
    return found


def sent_bytes(broadcasts: Sequence[Broadcast]) -> dict[str, int]:
    """Bytes sent to each site."""
    return {
        site: payload_bytes(item.tensors, item.request.model_dump_json())
        for item in broadcasts
        for site in item.targets
    }


def _reported(reply: TrainReply) -> dict[str, float]:
    numbers = {**reply.fields, "weight": reply.weight}
    return {name: value for name, value in numbers.items() if value is not None}


def _total(weight: float | Mapping[str, float]) -> float:
    """A site's weight; of one that weighs its tensors differently their mean, which the record shows."""
    return math.fsum(weight.values()) / max(len(weight), 1) if isinstance(weight, Mapping) else weight
