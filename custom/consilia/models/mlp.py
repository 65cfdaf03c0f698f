"""A multilayer perceptron for tables."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        in_features: number of input columns F after preprocessing.
        num_classes: number of classes C.
        hidden: widths of the hidden layers.
    """

    def __init__(self, in_features: int, num_classes: int, hidden: tuple[int, ...] | list[int] = (64, 32)) -> None:
        super().__init__()
        widths = [in_features, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))
        self.head = f"layers.{len(layers)}"

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (B, F) -> logits (B, C)."""
        logits: Tensor = self.layers(rows)
        return logits
