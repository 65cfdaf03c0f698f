"""Where a small transformer starts from when there is little to learn from: structure instead of noise.

Positions as sines and cosines over both axes, patches as their lowest cosine waves, and attention that begins by
looking at its own place (after Trockman and Kolter 2023, "Mimetic initialization of self-attention layers").
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def positions(grid: int, width: int) -> Tensor:
    """(grid * grid, width): sines and cosines of y and x at geometrically spaced frequencies."""
    steps = torch.arange(grid, dtype=torch.float32)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    frequency = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
    angles = [place.flatten()[:, None] * frequency for place in (y, x)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


def cosine_patches(width: int, patch: int) -> Tensor:
    """(width, 3, patch, patch): the lowest 2-D cosine waves of brightness (7/8 of the rows), then of colour."""
    place = (torch.arange(patch) + 0.5) * math.pi / patch
    order = sorted((u + v, u, v) for u in range(patch) for v in range(patch))
    waves = [torch.outer(torch.cos(u * place), torch.cos(v * place)) for _, u, v in order]
    waves = [wave / wave.norm() for wave in waves]
    bright = width * 7 // 8
    filters = [torch.stack([wave] * 3) / math.sqrt(3) for wave in waves[:bright]]
    for i in range(width - bright):
        wave = waves[i // 2]
        colour = torch.tensor([1.0, -1.0, 0.0]) if i % 2 else torch.tensor([0.5, 0.5, -1.0])
        filters.append(colour[:, None, None] * wave / colour.norm())
    return torch.stack(filters)


@torch.no_grad()
def structured_start(model: Any, grid: int, width: int, patch: int, heads: int) -> None:
    """Set the weights of a timm VisionTransformer as described above; the generators of torch are used."""
    model.pos_embed.zero_()
    model.pos_embed[0, 1:] = 0.5 * positions(grid, width)
    model.patch_embed.proj.weight.copy_(cosine_patches(width, patch))
    model.patch_embed.proj.bias.zero_()
    size = width // heads
    for block in model.blocks:
        query, key, value = block.attn.qkv.weight.split(width)
        for head in range(heads):
            rows = slice(head * size, (head + 1) * size)
            # Query and key alike: tokens attend to what resembles them, their own place first.
            basis = torch.linalg.qr(torch.randn(width, size))[0].T
            query[rows] = basis * 1.2
            key[rows] = basis * 1.2
        rotation = torch.linalg.qr(torch.randn(width, width))[0]
        value.copy_(rotation * 0.5)
        block.attn.proj.weight.copy_(-0.5 * rotation.T)
