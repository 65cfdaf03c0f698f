"""Small networks for multi-lead signals and for clinical time series: the defaults for such data.

A convolutional network over time for signals such as a twelve-lead ECG, and a recurrent one (GRU, Cho et al., EMNLP
2014) for series of hourly values. Neither has batch normalisation: what a case gives does not depend on its batch.
"""

from __future__ import annotations

from torch import Tensor, nn

from consilia.models.encoders import SignalEncoder


class SignalCNN(nn.Module):
    """Four strided convolutions over time, the mean over time, and a linear head.

    Args:
        num_classes: number of classes C.
        leads: channels L of a signal.
        width: of the features; a multiple of 2.
    """

    def __init__(self, num_classes: int, leads: int = 12, width: int = 64) -> None:
        super().__init__()
        self.encoder = SignalEncoder(width, leads=leads)
        self.head = nn.Linear(width, num_classes)

    def forward(self, signals: Tensor) -> Tensor:
        """Signals (B, L, samples) -> logits (B, C)."""
        logits: Tensor = self.head(self.encoder(signals).mean(dim=1))
        return logits


class SeriesGRU(nn.Module):
    """A gated recurrent unit over the time steps, and a linear head on its last state.

    Args:
        num_classes: number of classes C.
        features: values F of a time step.
        width: of the state.
    """

    def __init__(self, num_classes: int, features: int, width: int = 64) -> None:
        super().__init__()
        self.recurrent = nn.GRU(features, width, batch_first=True)
        self.head = nn.Linear(width, num_classes)

    def forward(self, series: Tensor) -> Tensor:
        """Series (B, steps, F) -> logits (B, C)."""
        last = self.recurrent(series)[1][-1]
        logits: Tensor = self.head(last)
        return logits
