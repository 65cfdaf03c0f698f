"""Shapes drawn into the box that a segmenter is shown: what the box alone is worth."""

from __future__ import annotations

import torch
from torch import Tensor


def ellipses(boxes: Tensor, height: int, width: int) -> Tensor:
    """The ellipse that fills each box, as masks (B, height, width) bool.

    A pixel (x, y) belongs to it if ((x - cx) / a)^2 + ((y - cy) / b)^2 <= 1, where (cx, cy) is the middle of the box
    and a, b are half its sides. A box of one pixel is that pixel.

    Args:
        boxes: (B, 4) x1, y1, x2, y2: the outermost pixels inside, in pixels from 0; so the sides are x2 - x1 + 1 and
            y2 - y1 + 1.
        height: of the masks, in pixels.
        width: of the masks, in pixels.
    """
    x1, y1, x2, y2 = boxes.double()[:, :, None, None].unbind(dim=1)
    down = torch.arange(height, device=boxes.device, dtype=torch.float64)[:, None]
    across = torch.arange(width, device=boxes.device, dtype=torch.float64)
    beside = (2 * across - x1 - x2) / (x2 - x1 + 1)
    above = (2 * down - y1 - y2) / (y2 - y1 + 1)
    return beside.square() + above.square() <= 1
