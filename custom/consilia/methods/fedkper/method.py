"""FedKPer: distil from the global model where it is correct, score the result, and weight the updates by the score."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from consilia.core.errors import ConfigError
from consilia.methods.client import Client, ClientContext, Round
from consilia.methods.config import MethodConfig
from consilia.methods.contract import Method, ReplyField, Update
from consilia.methods.fedkper.alignment import selective_alignment_loss
from consilia.methods.fedkper.reliability import MAX_SCORE, reliability_diversity_score
from consilia.methods.fit import Batch
from consilia.methods.server import Server, ServerContext, UpdateMetadata, Weights
from consilia.methods.tasks.classification import LOGITS

if TYPE_CHECKING:
    from consilia.record.schema import Record
    from consilia.report.panel import Panel

log = logging.getLogger(__name__)


class FedKPerConfig(MethodConfig):
    """FedKPer and its ablations; the defaults are the released method.

    ``weighting: samples`` keeps the alignment alone ("KD only"), ``max_kd_weight: 0`` keeps the aggregation alone, both
    together are FedAvg to the bit.
    """

    temperature: float = Field(1.0, gt=0, description="tau of the alignment")
    max_kd_weight: float = Field(10.0, ge=0, description="lambda_max; 0 switches the alignment off")
    kd_weight_mode: Literal["batch", "sample", "client"] = Field(
        "batch",
        description="over what the global model's error is taken that weighs the alignment: a batch, a case, or all "
        "training cases of the site",
    )
    weighting: Literal["reliability_diversity", "samples"] = Field(
        "reliability_diversity", description="of updates at the server"
    )
    reliability: Literal["train", "validation"] = Field(
        "train", description="the split on which a site's reliability is measured"
    )


class FedKPerClient(Client[FedKPerConfig]):
    """Knowledge personalisation (specification 2) and the site's half of the aggregation score (specification 3)."""

    def train(self, round_: Round) -> Update:
        """Train with the model just received as the teacher, then score the result."""
        self.load(round_.state)
        self._teacher = self.frozen_copy() if self.config.max_kd_weight > 0 else None
        self._error = self._error_here() if self.config.kd_weight_mode == "client" else None
        result = self.fit(round_)
        if self.config.weighting == "samples":
            return self.update(result)
        accuracy, score = self._score()
        return self.update(result, weight=score, fields={f"{self.config.reliability}_accuracy": accuracy})

    def loss(self, batch: Batch) -> Tensor:
        """Equation L(B) of specification 2.1; without a teacher, cross-entropy alone."""
        if self._teacher is None:
            return super().loss(batch)
        logits = self.network(batch.inputs)
        with torch.no_grad():
            teacher_logits = self._teacher(batch.inputs)
        return selective_alignment_loss(
            logits,
            teacher_logits,
            batch.labels,
            temperature=self.config.temperature,
            max_kd_weight=self.config.max_kd_weight,
            kd_weight_mode=self.config.kd_weight_mode,
            client_error=self._error,
            class_weights=self.class_weights.get(batch.dataset),
        )

    def _error_here(self) -> float:
        """Mean cross-entropy of the model as it is, just received, over the site's training cases; not augmented."""
        logits = self.predict(self.data.train)[LOGITS]
        return float(functional.cross_entropy(logits, self.data.train.labels))

    def _score(self) -> tuple[float, float]:
        """a_k, rounded to four decimals as released, and s_k = a_k (d_k + 1e-6); the label counts stay here."""
        split = self.data.split(self.config.reliability)
        if len(split) == 0:
            raise ConfigError(f"reliability: {self.config.reliability} needs cases in that split, the site has none")
        correct = int((self.predict(split)[LOGITS].argmax(dim=1) == split.labels).sum())
        accuracy = round(correct / len(split), 4)
        counts = torch.bincount(self.data.train.labels, minlength=self.data.num_classes).tolist()
        return accuracy, reliability_diversity_score(accuracy, counts)


class FedKPerServer(Server[FedKPerConfig]):
    """Aggregation by reliability x label diversity (specification 3.1 and decision 10.2)."""

    def weights(self, updates: Mapping[str, UpdateMetadata]) -> Weights:
        """s_k by site; n_k for all where every score is zero, which would leave nothing to divide by."""
        if self.config.weighting == "samples" or math.fsum(update.weight or 0.0 for update in updates.values()) > 0:
            return super().weights(updates)
        log.warning("all reliability x diversity scores of this round are zero: weighing by number of cases instead")
        return {site: float(update.cases) for site, update in updates.items()}


class FedKPer(Method[FedKPerConfig]):
    """Local training is distilled from the global model where it is correct; updates weigh reliability x diversity."""

    name = "fedkper"
    Config = FedKPerConfig
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {"max_kd_weight": (1.0, 3.0, 10.0, 30.0)}

    def same_as(self, num_classes: int) -> tuple[str, str] | None:
        """FedAvg without both halves."""
        neither = self.config.max_kd_weight == 0 and self.config.weighting == "samples"
        return ("fedavg", "max_kd_weight = 0 and weighting: samples leave both halves out") if neither else None

    def fields(self) -> tuple[ReplyField, ...]:
        """The accuracy that the score is made of, where the server weighs by it."""
        split = self.config.reliability
        cases = {"train": "training", "validation": "validation"}[split]
        meaning = f"share of {cases} cases that the trained model classifies correctly"
        heading = f"{cases.capitalize()} accuracy"
        weighs = self.config.weighting == "reliability_diversity"
        return (ReplyField(f"{split}_accuracy", meaning, heading=heading),) if weighs else ()

    def weight(self) -> ReplyField | None:
        """s_k, where the server weighs by it."""
        if self.config.weighting == "samples":
            return None
        meaning = "accuracy x evenness of the labels; with the accuracy it tells how even they are, not which"
        return ReplyField("weight", meaning, 0.0, MAX_SCORE, "Score")

    @classmethod
    def panels(cls, records: Sequence[Record]) -> list[Panel]:
        """What the weights of a run are made of."""
        from consilia.methods.fedkper.panels import run_panels

        return run_panels(records[0]) if len(records) == 1 else []

    def client(self, context: ClientContext) -> FedKPerClient:
        """The site's half."""
        return FedKPerClient(self, context)

    def server(self, context: ServerContext) -> FedKPerServer:
        """The server's half."""
        return FedKPerServer(self, context)
