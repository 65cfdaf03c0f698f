"""What travels between server and site. The content is JSON by these schemas; tensors travel beside it.

A site's reply is input from outside: the server validates it before use and refuses what does not fit. Optional fields
that a reply does not fill are not in its JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from torch import Tensor

from consilia.core.plain import PlainText
from consilia.core.schema import Strict
from consilia.data.moments import Moments
from consilia.methods.contract import MAX_CASES
from consilia.record.schema import SiteMetrics

RequestKind = Literal["prepare", "train", "evaluate", "personalize"]
REQUESTS: tuple[RequestKind, ...] = ("prepare", "train", "evaluate", "personalize")

# What comes from outside is bounded: a number that no site can mean is refused, not computed with.
Count = Annotated[int, Field(ge=0, le=MAX_CASES)]
Seconds = Annotated[float, Field(ge=0, le=1e7)]
Name = Annotated[PlainText, Field(max_length=200)]


class Request(Strict):
    """What the server asks of a site.

    Attributes:
        kind: of the request; also the name of NVFlare's task.
        round: number of rounds behind the global state that travels with the request.
        evaluate: ``train`` only: also evaluate the received global model and the locally trained one.
        keep: after the rounds: which global model this is, and under which name the site keeps its personal one.
        resume: ``prepare`` only: go on with what the site has kept of this run, instead of starting anew.
        final: after the rounds: every metric, also what is too slow for every round.
        threshold: ``final`` only: of the global model, above which probability a case counts as class 1; None: 0.5.
        client_round: the round whose client state counts: the site's last accepted one that the global state knows
            of; 0 = none, the site starts from its initial state.
        best_client_round: the same for the best global model so far; the site deletes all other states.
        preprocessing: mean and deviation of the raw values of all training sites, where the run pools them.
    """

    kind: RequestKind
    round: int = Field(0, ge=0)
    evaluate: bool = False
    keep: Literal["last", "best"] = "last"
    resume: bool = False
    final: bool = False
    threshold: float | None = Field(None, ge=0, le=1)
    client_round: int = Field(0, ge=0)
    best_client_round: int = Field(0, ge=0)
    preprocessing: dict[str, tuple[float, ...]] | None = None


@dataclass(frozen=True)
class Broadcast:
    """A request to some sites, with tensors where it needs them: the global state, and the method's payload."""

    request: Request
    targets: Sequence[str]
    tensors: Mapping[str, Tensor] | None = None


class PrepareReply(Strict):
    """A site's self-description: numbers and a digest, no label counts.

    ``datasets``: training cases of each of the run's datasets that the site has, where the run has several.
    ``layout``: the keys of its site.yaml that decide what an input means, ``normalise: "train"`` say, and the shape of
    an input; of a run with one dataset. ``moments``: sums of its training values, where the run pools them.
    """

    train: Count
    validation: Count
    test: Count
    class_names: tuple[Name, ...] = Field(min_length=1)
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    datasets: dict[Name, Count] = Field(default_factory=dict)
    layout: tuple[Name, ...] = Field((), max_length=500)
    moments: Moments | None = None


class TrainReply(Strict):
    """Goes with an update's tensors. ``received`` and ``trained`` are present where evaluation was asked for.

    ``weight`` is the method's own aggregation weight, ``fields`` what it reports beside the mean training loss.
    """

    round: Count
    cases: Count
    # Bounds are checked with the tensors, so that a lying number is refused by the same words as any bad update.
    weight: float | None = Field(None, allow_inf_nan=True)
    fields: dict[Name, float | None] = Field(default_factory=dict, max_length=100)
    received: SiteMetrics | None = None
    trained: SiteMetrics | None = None
    seconds: Seconds


class EvaluateReply(Strict):
    """Metrics of the received global model at one site, none where it cannot be judged there; ``variants`` of it."""

    round: Count
    received: SiteMetrics | None = None
    variants: dict[Name, SiteMetrics] = Field(default_factory=dict)
    seconds: Seconds


class PersonalizeReply(Strict):
    """Metrics of the final global model and of the personal model, which stays at the site."""

    round: Count
    received: SiteMetrics | None = None
    personal: SiteMetrics
    variants: dict[Name, SiteMetrics] = Field(default_factory=dict)
    seconds: Seconds


@dataclass(frozen=True)
class Reply:
    """A site's answer: validated JSON content, tensors for ``train`` alone, or the kind of error that came up.

    The error is a class name, never a message: messages may quote data, and belong in the site's own log.
    """

    content: str = ""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    error: str | None = None


REPLIES: dict[RequestKind, type[BaseModel]] = {
    "prepare": PrepareReply,
    "train": TrainReply,
    "evaluate": EvaluateReply,
    "personalize": PersonalizeReply,
}


def as_reply(content: Strict, tensors: Mapping[str, Tensor] | None = None) -> Reply:
    """A reply as it is sent: optional fields that are not filled are left out."""
    return Reply(content.model_dump_json(by_alias=True, exclude_defaults=True), tensors or {})


def payload_bytes(tensors: Mapping[str, Tensor] | None, content: str) -> int:
    """Bytes of a message: every tensor's data and the JSON text."""
    # What a site sends may be no tensor at all; its check comes later.
    return sum(getattr(tensor, "nbytes", 0) for tensor in (tensors or {}).values()) + len(content.encode())
