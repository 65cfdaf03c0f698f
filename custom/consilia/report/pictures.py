"""Pictures of a site's own cases for its own report: PNG ``data:`` addresses, at the site and for the site only."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

THUMBNAIL = 224  # pixels; larger images are reduced to this
OVERLAY = 3.2  # inches at 100 dots each: the longer side of a picture with lines


def pixels(image: Tensor) -> np.ndarray:
    """An image (c, H, W) stretched to 0..255: (H, W, 3) uint8 for c = 3, else its first channel (H, W)."""
    values = image.detach().cpu().float()
    values = values if len(values) == 3 else values[:1]
    low, high = values.min(), values.max()
    scaled = ((values - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
    found: np.ndarray = scaled.permute(1, 2, 0).numpy() if len(scaled) == 3 else scaled[0].numpy()
    return found


def thumbnail(image: Tensor) -> str:
    """An image (c, H, W), stretched to 0..255: colour for c = 3, else the first channel."""
    from PIL import Image

    picture = Image.fromarray(pixels(image))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return _address(buffer)


def outlined(image: Tensor, truth: Tensor, found: Tensor, box: Tensor | None = None) -> str:
    """An image (c, H, W) with the outlines of the true mask (H, W), solid, and of the predicted one, dashed.

    ``box``: x1, y1, x2, y2 of what the model was shown, its outermost pixels; dotted.
    """
    figure, axes = _canvas(image)
    if box is not None:
        x1, y1, x2, y2 = box.tolist()
        across, down = (x1 - 0.5, x2 + 0.5), (y1 - 0.5, y2 + 0.5)
        corners = [(across[i], down[j]) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))]
        axes.plot(*zip(*corners, strict=True), color="#56b4e9", linewidth=1.4, linestyle=(0, (1, 1.5)))
    _outline(axes, truth, "#ffffff", "solid")
    _outline(axes, found, "#ff9a3c", (0, (4, 2.5)))
    return _png(figure)


def attended(image: Tensor, attention: Tensor) -> str:
    """An image (c, H, W) under its attention map (h, w): darkened where it is low, with a line half-way up."""
    figure, axes = _canvas(image)
    height, width = image.shape[-2:]
    values = torch.nn.functional.interpolate(
        attention.detach().cpu().float()[None, None], (height, width), mode="bilinear", align_corners=False
    )[0, 0]
    share = ((values - values.min()) / (values.max() - values.min()).clamp(min=1e-12)).numpy()
    shade = np.zeros((height, width, 4), dtype=np.float32)
    shade[..., 3] = 0.75 * (1 - share)
    axes.imshow(shade, interpolation="nearest")
    _outline(axes, torch.from_numpy(share >= 0.5), "#56b4e9", "solid")
    return _png(figure)


def _canvas(image: Tensor) -> tuple[Any, Any]:
    """A figure that the image fills, and its axes in pixels; one pixel of margin, so that no outline is cut off."""
    from matplotlib.figure import Figure

    height, width = image.shape[-2:]
    scale = OVERLAY / max(height, width)
    figure = Figure(figsize=(width * scale, height * scale), dpi=100, facecolor="black")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(pixels(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(xlim=(-1.5, width + 0.5), ylim=(height + 0.5, -1.5))
    return figure, axes


def _outline(axes: Any, mask: Tensor, colour: str, dashes: Any) -> None:
    from matplotlib.patheffects import withStroke

    inside = np.pad(mask.detach().cpu().numpy() != 0, 1)  # a mask that touches the border has an outline there too
    if not inside.any():
        return
    height, width = inside.shape
    lines = axes.contour(
        np.arange(width) - 1, np.arange(height) - 1, inside.astype(np.float32), [0.5], colors=colour, linewidths=1.6
    )
    lines.set_linestyle(dashes)
    lines.set_path_effects([withStroke(linewidth=3.2, foreground="black")])


def _png(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return _address(buffer)


def _address(buffer: io.BytesIO) -> str:
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture(values: Tensor) -> np.ndarray | None:
    """An input as a picture: images (1 or 3, H, W) and leads (C, T); None for what cannot be drawn."""
    drawable = (values.ndim == 3 and values.shape[0] in (1, 3)) or (values.ndim == 2 and len(values) <= 16)
    found: np.ndarray | None = values.numpy() if drawable else None
    return found
