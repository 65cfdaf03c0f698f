"""FedKIM's parameters; the defaults of experts and learning rate are those of the paper's released configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from consilia.core.schema import Strict
from consilia.methods.config import MethodConfig
from consilia.methods.fedkim.task_definitions import TaskDefinitions, load_task_definitions
from consilia.models.config import FoundationConfig

Precision = Literal["float32", "bfloat16", "float16"]


class InjectionConfig(Strict):
    """How the server trains on its public data in every round; AdamW, whose state starts anew every round."""

    epochs: int = Field(1, ge=1, description="passes over the public data per round")
    batch_size: int = Field(16, ge=1, description="cases whose gradients make one step")
    accumulate: int = Field(1, ge=1, description="parts in which a batch goes through the model, for its memory")
    learning_rate: float = Field(5e-4, gt=0, description="of adapter and aligner")
    encoder_learning_rate: float | None = Field(None, ge=0, description="of encoders; default: learning_rate")
    weight_decay: float = Field(1e-4, ge=0, description="of AdamW")
    warmup: float = Field(0.1, ge=0, lt=1, description="fraction of a round's steps; then linear decay to 0")
    gradient_clip: float = Field(1.0, gt=0, description="largest gradient norm")
    cases: int | None = Field(None, ge=1, description="at most so many public cases per task and epoch; null = all")
    precision: Precision = Field("float32", description="of the forward pass (autocast); trained weights stay float32")
    gradient_checkpointing: bool = Field(False, description="less memory for about a third more time")
    checkpoint_steps: int = Field(200, ge=1, description="steps between checkpoints inside an injection")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")


class EvaluationConfig(Strict):
    """What the server asks the injected model when the rounds are over, and how it is fine-tuned on unseen tasks."""

    test_cases: int | None = Field(None, ge=1, description="at most so many test cases per task; null = all")
    max_tokens: int = Field(256, ge=8, description="longest question; its beginning is cut off")
    answer_tokens: int = Field(24, ge=1, description="longest answer that is decoded or learnt")
    few_shot: tuple[Annotated[int, Field(ge=1)] | Literal["all"], ...] = Field(
        (8, 32, "all"), description="labelled cases of an unseen task"
    )
    few_shot_steps: int = Field(30, ge=1, description="optimiser steps of each fine-tuning")


class FedKIMConfig(MethodConfig):
    """FedKIM and what it is judged against.

    FedPlug is ``adapter: none``; FedPlug_L is ``experts: 1``, one LoRA of rank ``rank``; w/o T and w/o M are
    ``router: modality`` and ``router: task``; ``mu`` > 0 is FedProx at the sites.

    Attributes:
        task_definitions: the tasks, or the name of an embedded task_definitions.
        language_model: the frozen language model, which the server alone needs.
        adapter: the mixture of LoRA experts, or none.
        experts: P; the gates are a dense softmax over them.
        rank: r of every expert.
        target_modules: the linear layers that get experts, as peft names them.
        router: which descriptions it reads.
        encoder_pushback: whether encoders changed by the injection go back to the sites.
        mu: strength of the proximal term in the sites' training.
    """

    task_definitions: TaskDefinitions = Field(default_factory=lambda: load_task_definitions("medical"))
    language_model: FoundationConfig = Field(default_factory=lambda: FoundationConfig(model="consilia-lm"))
    adapter: Literal["m3oe", "none"] = "m3oe"
    experts: int = Field(12, ge=1)
    rank: int = Field(8, ge=1)
    target_modules: str | tuple[str, ...] = "all-linear"
    router: Literal["both", "modality", "task"] = "both"
    encoder_pushback: bool = True
    mu: float = Field(0.0, ge=0)
    injection: InjectionConfig = InjectionConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @field_validator("task_definitions", mode="before")
    @classmethod
    def _embedded(cls, value: Any) -> Any:
        return load_task_definitions(value) if isinstance(value, str) else value
