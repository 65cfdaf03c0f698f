"""Survival: the time to an event that not every case reaches; Cox's partial likelihood of one log hazard per case."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from consilia.data.dataset import Split
from consilia.evaluation.survival import cox_loss, survival_metrics
from consilia.methods.tasks.base import Network, Predictions, Task

LOG_HAZARDS = "log_hazards"


class Survival(Task):
    """A proportional hazard per case, h_i(t) = h_0(t) exp(s_i): the model gives s_i, nobody needs h_0.

    The partial likelihood of a batch compares its own cases only, and so does that of a site: each batch and each site
    is a stratum with a baseline hazard of its own.
    """

    most = 256
    couples_cases: ClassVar[bool] = True

    def loss(
        self,
        network: Network,
        inputs: Tensor,
        labels: Tensor,
        draw: torch.Generator,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """See :func:`~consilia.evaluation.survival.cox_loss`: divided by the number of cases, but no mean over them."""
        return cox_loss(network(inputs).squeeze(1), labels)

    def teaches(self, labels: Tensor) -> bool:
        """A batch without an event has a partial likelihood of 1, whatever the model says."""
        return bool(labels[:, 1].any())

    def outputs(self, classes: int) -> int:
        """The log hazard alone."""
        return 1

    def prediction_shape(self, labels: Tensor, classes: int) -> tuple[int, ...]:
        """(N,)."""
        return (len(labels),)

    def fewest_cases(self, split: Split, classes: int) -> int:
        """The cases with the event: without them there is nothing to rank."""
        return int(split.labels[:, 1].sum())

    def predict(self, network: Network, inputs: Tensor, labels: Tensor, case_ids: tuple[str, ...]) -> dict[str, Tensor]:
        """Log hazards (N,)."""
        return {LOG_HAZARDS: network(inputs).squeeze(1).float().cpu()}

    def empty_predictions(self, split: Split, classes: int) -> dict[str, Tensor]:
        """No log hazards."""
        return {LOG_HAZARDS: torch.zeros(0)}

    def metrics(
        self, predictions: Predictions, split: Split, *, slow: bool, threshold: float | None = None
    ) -> dict[str, Any] | None:
        """C-index and loss; if ``slow`` also number of patients and interval.

        See :func:`~consilia.evaluation.survival.survival_metrics`.
        """
        return survival_metrics(predictions[LOG_HAZARDS], split.labels, split.patients if slow else None)

    def by_case(self, predictions: Predictions, split: Split) -> dict[str, Tensor]:
        """``time`` of the follow-up, ``event`` 0 or 1, and ``risk``, the log hazard."""
        return {"time": split.labels[:, 0], "event": split.labels[:, 1], "risk": predictions[LOG_HAZARDS]}
