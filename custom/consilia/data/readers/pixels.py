"""Normalising images: shared by the formats that hold pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from consilia.data.readers.base import Fitted
from consilia.data.specs import Normalise

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def fit_pixels(normalise: Normalise, raw: np.ndarray) -> Fitted:
    """Mean and standard deviation per channel of uint8 images (N, C, H, W), on the scale 0..1.

    ``half`` is 0.5 and 0.5 whatever the images: the paper's protocol for MedMNIST. ``imagenet`` are ImageNet's, which
    most pre-trained networks expect; a gray channel takes the mean of the three.
    """
    channels = raw.shape[1]
    if normalise == "half":
        return {"mean": [0.5] * channels, "std": [0.5] * channels}
    if normalise == "imagenet":
        colour = channels == len(IMAGENET_MEAN)
        mean, std = (list(v) if colour else [sum(v) / 3] * channels for v in (IMAGENET_MEAN, IMAGENET_STD))
        return {"mean": mean, "std": std}
    # Sums over counts of the 256 values: exact, and without a float copy of all images.
    counts = np.stack([np.bincount(raw[:, channel].ravel(), minlength=256) for channel in range(channels)])
    values = np.arange(256) / 255
    total = np.maximum(counts.sum(axis=1), 1)
    mean = counts @ values / total
    std = np.sqrt((counts * (values - mean[:, None]) ** 2).sum(axis=1) / total)
    return {"mean": mean.tolist(), "std": np.where(std > 0, std, 1.0).tolist()}


def apply_pixels(fitted: Fitted, raw: np.ndarray) -> Tensor:
    """uint8 images (N, C, H, W) as float32: ``(x / 255 - mean) / std`` per channel."""
    mean, std = (torch.tensor(fitted[key], dtype=torch.float32).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    return torch.from_numpy(np.array(raw)).to(torch.float32).div_(255).sub_(mean).div_(std)
