"""What a task means to a method: the loss of a batch, the answers of a model, and the figures of those answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from consilia.data.dataset import Split

Answers = Mapping[str, Tensor]
"""A model's answers on a split, by the way it was asked: ``{"logits": (N, C)}``, or a mask (N, H, W) per prompt."""

Network = Callable[..., Tensor]
"""A model as a task calls it: on inputs, or on what a frozen encoder made of them."""


class Task(ABC):
    """Stateless; :data:`consilia.methods.learner.TASKS` holds one of each."""

    batch: int
    """Cases that are answered at once."""

    @abstractmethod
    def loss(self, network: Network, inputs: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
        """The loss of one batch: scalar, to be minimised. ``draw`` is for what the task samples."""

    @abstractmethod
    def answer(self, network: Network, inputs: Tensor, labels: Tensor, case_ids: tuple[str, ...]) -> dict[str, Tensor]:
        """Answers for one batch, on the CPU."""

    @abstractmethod
    def nothing(self, split: Split, classes: int) -> dict[str, Tensor]:
        """The answers on a split without cases."""

    @abstractmethod
    def figures(self, answers: Answers, split: Split, *, thorough: bool) -> dict[str, Any] | None:
        """Metrics of the answers, None for an empty split; ``thorough`` adds what is too slow for every round."""

    def right(self, answers: Answers, split: Split) -> Tensor | None:
        """Which cases are right, (N,) bool, where that makes sense."""
        return None
