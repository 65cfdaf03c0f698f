"""What the record holds of a round's updates and messages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from consilia.aggregation import normalised
from consilia.federation.messages import Broadcast, TrainReply, payload_bytes
from consilia.methods.server import Weights
from consilia.record.schema import Contribution


def contributions(
    updates: Mapping[str, TrainReply], weights: Weights, factors: Mapping[str, float]
) -> dict[str, Contribution]:
    """By site: its share of the aggregate, what it reported, and the factor by which its update was clipped."""
    shares = normalised({site: _total(weight) for site, weight in weights.items()})
    return {
        site: Contribution(
            weight=shares[site],
            score=reply.weight,
            samples=reply.cases,
            train_loss=reply.fields.get("train_loss"),
            train_accuracy=reply.fields.get("train_accuracy"),
            individuality=reply.fields.get("prompt_diversity"),
            clipped=factors.get(site),
        )
        for site, reply in updates.items()
    }


def sent_bytes(broadcasts: Sequence[Broadcast]) -> dict[str, int]:
    """Bytes sent to each site."""
    return {
        site: payload_bytes(item.tensors, item.request.model_dump_json())
        for item in broadcasts
        for site in item.targets
    }


def _total(weight: float | Mapping[str, float]) -> float:
    """A site's weight; of one that weighs its tensors differently their mean, which the record shows."""
    return math.fsum(weight.values()) / max(len(weight), 1) if isinstance(weight, Mapping) else weight
