"""The section of a record on knowledge injection: what the server's language model has learnt."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt

from consilia.core.schema import Strict
from consilia.record.schema import Record
from consilia.record.types import Cases, Fraction, NonNegative

Answerer = Literal["injected", "extractor", "linear", "majority"]
"""The injected language model, the aggregated small model, and what both must beat."""


class AnswerMetrics(Strict):
    """Metrics of answers to one task's cases; 95 % intervals by patient. Undefined metrics are null.

    Closed questions, whose answer is one of the task's candidates: ``accuracy`` to ``loss``. Open ones, over all
    outputs, the empty ones too: ``bleu1`` to ``exact``.
    """

    count: Cases
    patients: Cases
    accuracy: Fraction | None = None
    balanced_accuracy: Fraction | None = None
    auroc: Fraction | None = None
    auprc: Fraction | None = None
    f1: Fraction | None = None
    loss: Annotated[float, Field(ge=0, le=1e9)] | None = None
    bleu1: Fraction | None = None
    rouge1: Fraction | None = None
    meteor: Fraction | None = None
    exact: Fraction | None = None
    intervals: dict[str, tuple[float, float] | None] = Field(default_factory=dict)


class TaskAnswers(Strict):
    """Metrics of one task: of its closed and of its open questions, each null where it has none."""

    closed: AnswerMetrics | None = None
    open: AnswerMetrics | None = None


class InjectionRound(Strict):
    """The injection after round r: optimiser steps, mean loss by task (nats per answer token), the experts' weights.

    ``validation``: closed questions of the server's validation cases, after the injection.
    """

    round: Annotated[int, Field(ge=1)]
    steps: NonNegativeInt
    seconds: NonNegative
    loss: dict[str, NonNegative]
    validation: dict[str, AnswerMetrics]
    gates: dict[str, list[Fraction]]


class Parameters(Strict):
    """Elements: of the frozen language model, and of what the injection trains."""

    language_model: NonNegativeInt
    experts: NonNegativeInt
    router: NonNegativeInt
    aligner: NonNegativeInt
    encoders: NonNegativeInt


class Injection(Strict):
    """What the server did with its own public data, and what became of it.

    ``test``: metrics on the server's test cases by who answers and by task. ``few_shot``: of the injected model after
    training on n labelled public cases of an unseen task, by task and n (``all`` for all of them). ``fingerprint``: of
    the server's data, as a site's is of its own.
    """

    fingerprint: str = ""

    seen: list[str]
    unseen: list[str]
    experts: NonNegativeInt
    parameters: Parameters
    rounds: list[InjectionRound] = Field(default_factory=list)
    test: dict[Answerer, dict[str, TaskAnswers]] = Field(default_factory=dict)
    few_shot: dict[str, dict[str, TaskAnswers]] = Field(default_factory=dict)


def injection_of(record: Record) -> Injection | None:
    """The section of a record; None where it has none."""
    found = record.sections.get("fedkim")
    return None if found is None else Injection.model_validate(found)
