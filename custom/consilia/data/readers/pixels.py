"""Normalising images: shared by the formats that hold pixels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from consilia.core.errors import ConfigError
from consilia.data.moments import Moments
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


def pixel_moments(normalise: Normalise, raw: np.ndarray, fewest: int = 0) -> Moments:
    """Sums of the values 0..255 of each channel of uint8 images (N, C, H, W): whole numbers.

    Of fewer images than ``fewest`` there are none.

    Raises:
        ConfigError: site.yaml names fixed values.
    """
    if normalise != "train":
        raise ConfigError(
            f"preprocessing: pooled is for sites whose site.yaml has normalise: train, this one has {normalise}, the "
            "same at every site: set preprocessing: site, and a site that uses the model needs nothing fitted either"
        )
    enough = raw if len(raw) >= fewest else raw[:0]
    counts = np.stack([np.bincount(enough[:, channel].ravel(), minlength=256) for channel in range(raw.shape[1])])
    grey = np.arange(256)
    return Moments(
        values=tuple(counts.sum(axis=1).tolist()),
        total=tuple(float(x) for x in counts @ grey),
        squares=tuple(float(x) for x in counts @ grey**2),
    )


def pooled_pixels(values: Mapping[str, list[float]]) -> Fitted:
    """Mean and deviation of 0..255 on the scale 0..1 of :func:`fit_pixels`."""
    return {key: [x / 255 for x in values[key]] for key in ("mean", "std")}


def apply_pixels(fitted: Fitted, raw: np.ndarray) -> Tensor:
    """uint8 images (N, C, H, W) as float32: ``(x / 255 - mean) / std`` per channel."""
    mean, std = (torch.tensor(fitted[key], dtype=torch.float32).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    return torch.from_numpy(np.array(raw)).to(torch.float32).div_(255).sub_(mean).div_(std)
