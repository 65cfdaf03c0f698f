"""Light encoders, one per modality: what a case holds becomes a few tokens of one width."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class ImageEncoder(nn.Module):
    """A timm vision transformer (ViT or DeiT); its patch tokens are averaged to a coarse grid, its class token kept.

    Args:
        width: of the tokens.
        tokens: side of the grid: ``tokens**2 + 1`` tokens come out.
        vit: a transformer to start from (and to train), or None for a fresh one.
        arguments: of a fresh one, as :class:`timm.models.VisionTransformer` takes them.
    """

    def __init__(self, width: int, *, tokens: int = 3, vit: nn.Module | None = None, **arguments: Any) -> None:
        super().__init__()
        own: Any = _vision_transformer(arguments) if vit is None else vit
        if not getattr(own, "num_prefix_tokens", 0):
            raise ValueError(f"expected a vision transformer of timm with a class token, got {type(own).__name__}")
        self.vit: Any = own
        self.vit.requires_grad_(True)
        self.grid = tokens
        features: int = own.embed_dim
        self.project = nn.Identity() if features == width else nn.Linear(features, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1 or C, H, W) of any size -> (B, tokens**2 + 1, width)."""
        size, channels = self.vit.patch_embed.img_size, self.vit.patch_embed.proj.in_channels
        if images.ndim != 4:
            raise ValueError(f"images must be (cases, channels, height, width), got {tuple(images.shape)}")
        if images.shape[1] not in (1, channels):
            raise ValueError(f"images have {images.shape[1]} channels, the encoder takes 1 or {channels}")
        if images.shape[-2:] != torch.Size(size):
            images = functional.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        features = self.vit.forward_features(images.expand(-1, channels, -1, -1))
        prefix = self.vit.num_prefix_tokens
        rows, columns = self.vit.patch_embed.grid_size
        patches = features[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))
        pooled = functional.adaptive_avg_pool2d(patches, self.grid).flatten(2).transpose(1, 2)
        tokens: Tensor = self.norm(self.project(torch.cat([features[:, :1], pooled], dim=1)))
        return tokens


class SignalEncoder(nn.Module):
    """A convolutional encoder of multi-lead signals such as a 12-lead ECG: four strided layers over time.

    Args:
        width: of the tokens.
        leads: channels of the signal.
        tokens: stretches of time that come out as one token each.
    """

    def __init__(self, width: int, *, leads: int = 12, tokens: int = 10) -> None:
        super().__init__()
        channels = [leads, width // 2, width // 2, width, width]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv1d(before, after, kernel_size=7, stride=2 + (place < 2), padding=3),
                    nn.GroupNorm(math.gcd(8, after), after),
                    nn.GELU(),
                )
                for place, (before, after) in enumerate(pairwise(channels))
            )
        )
        self.leads, self.tokens = leads, tokens
        self.norm = nn.LayerNorm(width)

    def forward(self, signals: Tensor) -> Tensor:
        """(B, leads, samples) -> (B, tokens, width)."""
        if signals.ndim != 3 or signals.shape[1] != self.leads:
            raise ValueError(f"signals must be (cases, {self.leads} leads, samples), got {tuple(signals.shape)}")
        tokens: Tensor = self.norm(_pool_time(self.layers(signals), self.tokens).transpose(1, 2))
        return tokens


class SeriesEncoder(nn.Module):
    """A transformer layer over the time steps of some columns of a clinical time series.

    Attention is over time within a case; the published code's, by torch's default layout, was over the batch's
    patients.

    Args:
        width: of the tokens.
        columns: first and one past the last feature that this modality reads.
        heads: attention heads.
        tokens: stretches of time that come out as one token each.
    """

    def __init__(self, width: int, *, columns: tuple[int, int], heads: int = 4, tokens: int = 6) -> None:
        super().__init__()
        self.first, self.stop = columns
        if not 0 <= self.first < self.stop:
            raise ValueError(f"columns must be [first, stop] with first below stop, got {list(columns)}")
        self.embed = nn.Linear(self.stop - self.first, width)
        self.layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.tokens = tokens
        self.norm = nn.LayerNorm(width)

    def forward(self, series: Tensor) -> Tensor:
        """(B, steps, features) -> (B, tokens, width)."""
        if series.ndim != 3 or series.shape[2] < self.stop:
            raise ValueError(f"series must be (cases, steps, {self.stop} features or more), got {tuple(series.shape)}")
        steps = self.embed(series[..., self.first : self.stop])
        attended = self.layer(steps + _positions(steps.shape[1], steps.shape[2]).to(steps))
        tokens: Tensor = self.norm(_pool_time(attended.transpose(1, 2), self.tokens).transpose(1, 2))
        return tokens


class TableEncoder(nn.Module):
    """A two-layer perceptron of a table's row.

    Args:
        width: of the tokens.
        features: numbers per row.
        tokens: that come out.
    """

    def __init__(self, width: int, *, features: int, tokens: int = 2) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, width), nn.GELU(), nn.Linear(width, tokens * width))
        self.shape = (tokens, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, features) -> (B, tokens, width)."""
        if rows.ndim != 2 or rows.shape[1] != self.layers[0].in_features:
            raise ValueError(f"rows must be (cases, {self.layers[0].in_features} features), got {tuple(rows.shape)}")
        tokens: Tensor = self.norm(self.layers(rows).unflatten(1, self.shape))
        return tokens


def _pool_time(values: Tensor, tokens: int) -> Tensor:
    """Means over ``tokens`` stretches of time: (B, C, T) -> (B, C, tokens)."""
    return functional.adaptive_avg_pool1d(values, tokens)


def _positions(steps: int, width: int) -> Tensor:
    """Sinusoidal positions (steps, width): Vaswani et al. 2017, section 3.5."""
    frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(steps).unsqueeze(1) * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width]


def _vision_transformer(arguments: dict[str, Any]) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    model: nn.Module = VisionTransformer(num_classes=0, **arguments)
    return model
