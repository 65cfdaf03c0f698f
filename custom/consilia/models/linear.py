"""A linear model of pooled inputs: the logistic regression that every network has to beat, as a network.

image (c, H, W)            -> means over a grid                                   at most about 1,024 numbers
signal (leads, samples)    -> log(1 + amplitude) of its frequencies, over bands   and five numbers per lead
series (steps, features)   -> means over stretches of time                        and five numbers per feature
table (F)                  -> as it is
  -> linear -> C logits
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

MOST_FEATURES = 1024


def pooled_features(values: Tensor, *, steps_first: bool = False) -> Tensor:
    """At most about 1024 numbers of each case of ``values`` (N, ...), as (N, F).

    Images (N, c, H, W) are averaged over a grid. Signals (N, leads, samples) become log(1 + amplitude) of their
    frequencies, averaged over bands, since a beat may fall anywhere; series (N, steps, features), with ``steps_first``,
    are averaged over stretches of time. To both come each lead's mean, standard deviation, extremes and last value.
    Tables (N, F) stay as they are.

    Raises:
        ValueError: values of another number of dimensions.
    """
    if values.ndim == 4:
        side = max(1, int((MOST_FEATURES / values.shape[1]) ** 0.5))
        found = functional.adaptive_avg_pool2d(values, (min(side, values.shape[2]), min(side, values.shape[3])))
    elif values.ndim == 3:
        leads = values.transpose(1, 2) if steps_first else values
        mean = leads.mean(2, keepdim=True)
        shape = leads if steps_first else torch.fft.rfft(leads - mean, dim=2).abs().log1p()
        bands = min(max(1, MOST_FEATURES // leads.shape[1] - 5), shape.shape[2])
        spread, last = leads.std(2, correction=0, keepdim=True), leads[..., -1:]
        ends = [leads.amin(2, keepdim=True), leads.amax(2, keepdim=True)]
        found = torch.cat([functional.adaptive_avg_pool1d(shape, bands), mean, spread, *ends, last], dim=2)
    elif values.ndim == 2:
        found = values
    else:
        raise ValueError(f"expected images, signals, series or tables, got shape {tuple(values.shape)}")
    return found.flatten(1)


class PooledLinear(nn.Module):
    """One linear layer on :func:`pooled_features`.

    Args:
        in_features: how many of them there are, F.
        num_classes: number of classes C.
        steps_first: of a series (N, steps, features), not of a signal (N, leads, samples).
    """

    head = "layer"

    def __init__(self, in_features: int, num_classes: int, steps_first: bool = False) -> None:
        super().__init__()
        self.steps_first = steps_first
        self.layer = nn.Linear(in_features, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (B, ...) -> logits (B, C)."""
        logits: Tensor = self.layer(pooled_features(inputs, steps_first=self.steps_first))
        return logits


class LogisticRegression(nn.Module):
    """A linear model of two classes with one output z, the log-odds of class 1: ``nn.Linear(in_features, 1)``.

    The logits are (0, z), so that their cross-entropy is the binary cross-entropy of z. It has half the weights of a
    layer with two outputs, and no head that would make the logits.

    Args:
        in_features: number of :func:`pooled_features`, F.
        steps_first: of a series (N, steps, features), not of a signal (N, leads, samples).
    """

    def __init__(self, in_features: int, steps_first: bool = False) -> None:
        super().__init__()
        self.steps_first = steps_first
        self.layer = nn.Linear(in_features, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (B, ...) -> logits (B, 2)."""
        odds = self.layer(pooled_features(inputs, steps_first=self.steps_first))
        return torch.cat([torch.zeros_like(odds), odds], dim=1)
