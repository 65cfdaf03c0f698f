"""What a learning task means to a method: the loss of a batch, the predictions of a model, and their metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from consilia.data.dataset import Split

Predictions = Mapping[str, Tensor]
"""A model's predictions on a split: ``{"logits": (N, C)}``, ``{"log_hazards": (N,)}``, or a mask (N, H, W) for each
prompt setting."""


@dataclass(frozen=True)
class Network:
    """A model as a task calls it: ``decode(encode(inputs), ...)``.

    A model without such halves is all decoder; where a frozen encoder's output is kept, there is nothing to encode.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[..., Tensor]

    def __call__(self, inputs: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """The model's output."""
        return self.decode(self.encode(inputs), *arguments, **options)


def network_of(model: Any, *, encoded: bool = False) -> Network:
    """The model in two halves; with ``encoded`` it is called on what its encoder made of the inputs."""
    if encoded:
        return Network(_as_it_is, model.decode)
    if hasattr(model, "encode") and hasattr(model, "decode"):
        return Network(model.encode, model.decode)
    return Network(_as_it_is, model)


def _as_it_is(inputs: Tensor) -> Tensor:
    return inputs


SMALL = 128
"""Side, in pixels, of an image of which :attr:`Task.most` are evaluated at once."""


class Task(ABC):
    """Stateless; :data:`consilia.methods.tasks.TASKS` holds one of each."""

    most: int
    """Cases that are evaluated at once, if they are small."""

    couples_cases: ClassVar[bool] = False
    """Whether the loss of a batch is no mean over its cases: then no gradient is one case's alone, to be clipped."""

    def at_once(self, inputs: Tensor) -> int:
        """How many of the cases (N, ...) are evaluated at once: fewer of large images, for their memory."""
        pixels = inputs.shape[-1] * inputs.shape[-2] if inputs.ndim > 3 else 1
        return max(1, min(self.most, self.most * SMALL**2 // pixels))

    @abstractmethod
    def loss(
        self,
        network: Network,
        inputs: Tensor,
        labels: Tensor,
        draw: torch.Generator,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """The loss of one batch: scalar, to be minimised. ``draw`` is for what the task samples.

        ``class_weights`` (C,): of a classification; None weighs every case alike.
        """

    def teaches(self, labels: Tensor) -> bool:
        """Whether a batch of these labels has a gradient; of another one no step is made."""
        return True

    def outputs(self, classes: int) -> int:
        """How many numbers a network gives for each case."""
        return classes

    @abstractmethod
    def prediction_shape(self, labels: Tensor, classes: int) -> tuple[int, ...]:
        """The shape of each prediction for cases with these labels."""

    @abstractmethod
    def fewest_cases(self, split: Split, classes: int) -> int:
        """How many cases a metric of the split rests on: what the site's limit on metrics counts."""

    @abstractmethod
    def predict(self, network: Network, inputs: Tensor, labels: Tensor, case_ids: tuple[str, ...]) -> dict[str, Tensor]:
        """Predictions for one batch, on the CPU."""

    @abstractmethod
    def empty_predictions(self, split: Split, classes: int) -> dict[str, Tensor]:
        """The predictions on a split without cases."""

    @abstractmethod
    def metrics(
        self, predictions: Predictions, split: Split, *, slow: bool, threshold: float | None = None
    ) -> dict[str, Any] | None:
        """Metrics of predictions, None for an empty split; ``slow`` adds what is too slow for every round.

        ``threshold``: the model's, of a classification of two classes; None stands for 0.5.
        """

    def threshold(self, predictions: Predictions, split: Split) -> float | None:
        """The threshold that the cases of a split choose, where a decision has one."""
        return None

    @abstractmethod
    def by_case(self, predictions: Predictions, split: Split) -> dict[str, Tensor]:
        """What a study needs of each test case, (N,) by column: the truth and the prediction, or how good it is."""

    def is_correct(self, predictions: Predictions, split: Split) -> Tensor | None:
        """Which cases are classified correctly, (N,) bool, where that makes sense."""
        return None
