"""The four-layer CNN of the FedKPer paper's experiments."""

from __future__ import annotations

from torch import Tensor, nn


class FourLayerCNN(nn.Module):
    """conv5x5-ReLU-maxpool-conv5x5-ReLU-maxpool-linear-ReLU-linear, without normalisation or dropout.

    With the defaults this is the network of Fowler & AlRegib, "FedKPer" (ICIP 2026): 32, 64 channels, 512 hidden units.

    Args:
        num_classes: number of classes C.
        in_channels: 1 for grey, 3 for colour images.
        image_size: side of the square image in pixels; a multiple of 4.
        channels: output channels of the two convolutions.
        hidden: width of the hidden linear layer.
    """

    head = "classifier.3"

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 1,
        image_size: int = 28,
        channels: tuple[int, int] | list[int] = (32, 64),
        hidden: int = 512,
    ) -> None:
        super().__init__()
        if image_size % 4:
            raise ValueError(f"image_size must be a multiple of 4 (two 2x2 poolings), got {image_size}")
        first, second = channels
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, first, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(second * (image_size // 4) ** 2, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, in_channels, image_size, image_size) -> logits (B, C)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits
