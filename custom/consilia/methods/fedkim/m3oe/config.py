"""Settings of an M3OE adapter, saved beside its weights as ``adapter_config.json``."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from peft import PeftConfig


class M3OEType(StrEnum):
    """The adapter's type: peft's own enumeration is closed."""

    M3OE = "M3OE"


@dataclass
class M3OEConfig(PeftConfig):  # type: ignore[misc]
    """A mixture of low-rank experts in every adapted linear layer, weighted by one gate per sample and expert.

    Args:
        num_experts: P; 1 is plain LoRA of rank r scaled by 1, without a router.
        r: rank of one expert.
        target_modules: ``all-linear`` = every linear layer but the language model's head; or a list of names, or a
            regular expression, as for peft's LoRA. Naming the head adapts it too: then save with
            ``save_embedding_layers=False``, or peft stores the head's own weights beside the adapter.
        dropout: on what enters the experts, from 0 to below 1.
        embedding_dim: width of the language model's token embeddings, which the router reads; not needed for P = 1.
        bias: only ``none``: biases of the language model stay as they are.

    Raises:
        ValueError: a value out of range.
    """

    task_type: str | None = field(default="CAUSAL_LM", metadata={"help": "what peft wraps the model for"})
    num_experts: int = field(default=12, metadata={"help": "number of experts P"})
    r: int = field(default=8, metadata={"help": "rank of one expert"})
    target_modules: list[str] | set[str] | str = field(default="all-linear", metadata={"help": "layers to adapt"})
    dropout: float = field(default=0.0, metadata={"help": "dropout on what enters the experts"})
    embedding_dim: int | None = field(default=None, metadata={"help": "width of the token embeddings"})
    bias: str = field(default="none", metadata={"help": "only none"})

    def __post_init__(self) -> None:
        """Check the values and fill in the type."""
        super().__post_init__()
        self.peft_type = M3OEType.M3OE
        if self.num_experts < 1 or self.r < 1:
            raise ValueError(f"num_experts and r must be at least 1, got {self.num_experts} and {self.r}")
        if self.num_experts > 1 and (self.embedding_dim is None or self.embedding_dim < 1):
            raise ValueError(f"embedding_dim must be the width of the token embeddings, got {self.embedding_dim}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be from 0 to below 1, got {self.dropout}")
        if self.bias != "none":
            raise ValueError(f"bias must be 'none', got {self.bias!r}")
        if not self.target_modules:
            raise ValueError("target_modules must be 'all-linear', names or a regular expression, got nothing")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # what peft works with

    def to_dict(self) -> dict[str, Any]:
        """The settings; names of layers in order, so that the same adapter writes the same file."""
        settings: dict[str, Any] = super().to_dict()
        if isinstance(self.target_modules, set):
            settings["target_modules"] = sorted(self.target_modules)
        return settings
