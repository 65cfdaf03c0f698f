"""q-FedAvg: Li et al., "Fair Resource Allocation in Federated Learning", ICLR 2020, Algorithm 2.

The objective is sum_k F_k(x)^(q + 1) / (q + 1) over the sites, each counting alike: the larger q, the more counts a
site where the model does badly. A site receives x, has the loss F_k(x) on its training cases, and trains to y_k. With
the learning rate eta of the round, L = 1 / eta and Delta w_k = L (x - y_k), the next model is

    x - sum_k F_k^q Delta w_k / sum_k h_k,      h_k = q F_k^(q - 1) ||Delta w_k||^2 + L F_k^q.

The mean of the y_k with weights F_k^q is m, so the numerator is L sum_k F_k^q (x - m): beside y_k a site sends its
weight F_k^q, and the pair (L F_k^q, h_k). q = 0 is FedAvg with equal weights.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from consilia import methods as fl

SUMS = "fairness_sums"
LEAST_LOSS = 1e-6  # its powers are numbers in float32


class QFedAvgConfig(fl.MethodConfig):
    """The parameter of q-FedAvg."""

    q: float = Field(1.0, ge=0, le=5, description="0 is FedAvg with equal weights; more favours sites of large loss")


class QFedAvgClient(fl.Client[QFedAvgConfig]):
    """FedAvg's local training, weighed by the loss of the received model."""

    def train(self, round_: fl.Round) -> fl.Update:
        """Train, and say how badly the received model did."""
        self.load(round_.state)
        start, loss, q = self.copy_of_parameters(), self._loss(), self.config.q
        result = self.fit(round_)
        steps = [(start[name] - parameter.detach()).double() for name, parameter in self.parameters.items()]
        squared = float(sum(step.square().sum() for step in steps)) / result.rate**2
        weight = loss**q
        sums = torch.tensor([weight / result.rate, q * loss ** (q - 1) * squared + weight / result.rate])
        return self.update(result, weight=weight, extras={SUMS: sums})

    @torch.no_grad()
    def _loss(self) -> float:
        """F_k: mean loss of the model as it is over the training cases, in evaluation mode."""
        self.model.eval()
        losses = [(self.loss(batch), len(batch)) for batch in self.batches(torch.Generator().manual_seed(0))]
        return max(sum(float(loss) * cases for loss, cases in losses) / sum(cases for _, cases in losses), LEAST_LOSS)


class QFedAvgServer(fl.Server[QFedAvgConfig]):
    """x moves towards the weighted mean, by L sum_k F_k^q / sum_k h_k of the way."""

    def step(self, previous: fl.State, mean: fl.Mean, round_number: int) -> fl.State:
        """Of parameters; buffers take the mean."""
        numerator, denominator = mean.extras[SUMS].double().tolist()
        share = numerator / denominator
        parameters = {name for name, _ in self.context.model().named_parameters(remove_duplicate=False)}
        return {
            name: torch.lerp(previous[name], value, share) if name in parameters else value
            for name, value in mean.state.items()
        }


class QFedAvg(fl.Method[QFedAvgConfig]):
    """FedAvg for a fair federation: sites count by their loss to the power q (Li et al. 2020)."""

    name = "qfedavg"
    Config = QFedAvgConfig
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {"q": (0.0, 0.1, 1.0, 5.0)}

    def weight(self) -> fl.ReplyField:
        """F_k^q."""
        return fl.ReplyField("fairness_weight", "mean training loss of the received model to the power q", 0.0, 1e8)

    def extras(self, model: nn.Module) -> dict[str, fl.TensorSpec]:
        """(L F_k^q, h_k)."""
        return {SUMS: fl.TensorSpec((2,), max_norm=1e18)}

    def client(self, context: fl.ClientContext) -> QFedAvgClient:
        """The site's half."""
        return QFedAvgClient(self, context)

    def server(self, context: fl.ServerContext) -> fl.Server[Any]:
        """The server's half."""
        return QFedAvgServer(self, context)
