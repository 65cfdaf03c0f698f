"""A network with a normalisation layer."""

from __future__ import annotations

from torch import Tensor, nn


class Normed(nn.Module):
    """Two linear layers with batch normalisation between them."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(in_features, 8), nn.BatchNorm1d(8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, in_features) -> logits (B, num_classes)."""
        return self.head(self.norm(self.first(inputs)).relu())  # type: ignore[no-any-return]
