"""What travels between server and site. The content is JSON by these schemas; tensors travel beside it.

A site's reply is input from outside: the server validates it before use and refuses what does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from torch import Tensor

from consilia.methods.config import Settings
from consilia.methods.server import MAX_SAMPLES
from consilia.record.schema import SiteMetrics

TaskName = Literal["prepare", "train", "evaluate", "personalise"]

# What comes from outside is bounded: a number that no site can mean is refused, not computed with.
Count = Annotated[int, Field(ge=0, le=MAX_SAMPLES)]
Seconds = Annotated[float, Field(ge=0, le=1e7)]


class TaskInfo(Settings):
    """What the server asks of a site.

    Attributes:
        version: number of rounds behind the global state that travels with the task.
        evaluate: ``train`` only: also evaluate the received global model and the locally trained one.
        keep: after the rounds: which global model this is, and under which name the site keeps its personal one.
        resume: ``prepare`` only: go on with what the site has kept of this run, instead of starting anew.
        final: after the rounds: every figure, also what is too slow for every round.
    """

    task: TaskName
    version: int = Field(0, ge=0)
    evaluate: bool = False
    keep: Literal["last", "best"] = "last"
    resume: bool = False
    final: bool = False


@dataclass(frozen=True)
class Task:
    """A task for some sites, with the global state where the task needs one."""

    info: TaskInfo
    targets: Sequence[str]
    tensors: Mapping[str, Tensor] | None = None


class PrepareReply(Settings):
    """A site's self-description: numbers and a digest, no label counts.

    ``tasks``: training cases of each of the run's tasks that the site has, where the run has several.
    """

    train: Count
    validation: Count
    test: Count
    class_names: tuple[str, ...] = Field(min_length=1)
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    tasks: dict[str, Count] = Field(default_factory=dict)


class TrainMetrics(Settings):
    """What is told of local training: mean loss of the last epoch, accuracy of the trained model at home.

    ``individuality`` is Fed-GPL's: how far the generated prompts differ between images.
    """

    train_loss: float | None = None
    train_accuracy: float | None = Field(None, ge=0, le=1)
    validation_accuracy: float | None = Field(None, ge=0, le=1)
    individuality: float | None = Field(None, ge=0, le=1e3)


class TrainReply(Settings):
    """Goes with an update's tensors. ``received`` and ``trained`` are present where evaluation was asked for."""

    version: Count
    samples: Count
    # Bounds are checked with the tensors, so that a lying score is refused by the same words as any other bad update.
    score: float | None = Field(None, allow_inf_nan=True)
    metrics: TrainMetrics = TrainMetrics()
    received: SiteMetrics | None = None
    trained: SiteMetrics | None = None
    seconds: Seconds


class EvaluateReply(Settings):
    """Figures of the received global model at one site; ``mean_query`` of Fed-GPL's without its personal touch."""

    version: Count
    received: SiteMetrics
    mean_query: SiteMetrics | None = None
    seconds: Seconds


class PersonaliseReply(Settings):
    """Figures of the final global model and of the personal model, which stays at the site."""

    version: Count
    received: SiteMetrics
    personal: SiteMetrics
    mean_query: SiteMetrics | None = None
    seconds: Seconds


@dataclass(frozen=True)
class Reply:
    """A site's answer: validated JSON content, tensors for ``train`` alone, or the kind of error that came up.

    The error is a class name, never a message: messages may quote data, and belong in the site's own log.
    """

    content: str = ""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    error: str | None = None


REPLIES: dict[TaskName, type[BaseModel]] = {
    "prepare": PrepareReply,
    "train": TrainReply,
    "evaluate": EvaluateReply,
    "personalise": PersonaliseReply,
}


def payload_bytes(tensors: Mapping[str, Tensor] | None, content: str) -> int:
    """Bytes of a message: every tensor's data and the JSON text."""
    # What a site sends may be no tensor at all; its check comes later.
    return sum(getattr(tensor, "nbytes", 0) for tensor in (tensors or {}).values()) + len(content.encode())
