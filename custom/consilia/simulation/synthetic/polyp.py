"""Polyp phantoms: bowel mucosa as an endoscope shows it, with one polyp."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from consilia.simulation.synthetic.canvas import (
    Drawing,
    Outline,
    Point,
    blend,
    dots,
    grid,
    lines,
    sigmoid,
    texture,
    wander,
    waves,
)

CLASSES = ("flat", "pedunculated")


def draw_polyp(rng: np.random.Generator, label: int, size: int) -> Drawing:
    """A low plaque (flat) or a round head on a stalk (pedunculated; the stalk may be short); mask: all of it."""
    mucosa = np.array([0.8, 0.42, 0.36]) * rng.uniform(0.85, 1.15, 3)
    light = (float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.3, 0.7)))
    canvas = _bowel(rng, size, mucosa, light)
    radius = float(rng.uniform(0.09, 0.2))
    centre = (float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.3, 0.7)))
    flatness = float(np.exp(rng.normal(0.45 if label == 0 else 0.05, 0.2)))
    head = Outline(
        centre,
        (radius / np.sqrt(flatness), radius * np.sqrt(flatness)),
        float(rng.uniform(0, np.pi)),
        waves(rng, 0.07 if label == 0 else 0.04, 2, 7),
    )
    distance = head.distance(size)
    structure = distance < 1
    height = float(rng.uniform(0.1, 0.5) if label == 0 else rng.uniform(0.3, 0.9))
    if label == 1:
        stalk = _stalk(rng, size, centre, radius)
        canvas = blend(canvas, stalk, mucosa * rng.uniform(0.75, 1.0))
        structure = structure | (stalk > 0.5)
    canvas = _head(rng, canvas, distance, mucosa, light, centre, height)
    count = int(rng.poisson(5))
    shine = [(float(y), float(x)) for y, x in rng.random((count, 2))] + [(centre[0] - radius * 0.3, centre[1])]
    canvas = blend(
        canvas, dots(size, shine, [float(r) for r in rng.uniform(0.005, 0.018, count + 1)]), (1.0, 0.98, 0.95)
    )
    return Drawing(canvas, structure)


def _bowel(rng: np.random.Generator, size: int, mucosa: np.ndarray, light: Point) -> np.ndarray:
    """Folds as arcs around a dark lumen, fine vessels, light that falls off."""
    y, x = grid(size)
    lumen = (float(rng.uniform(-0.1, 1.1)), float(rng.uniform(-0.1, 1.1)))
    reach = np.hypot(y - lumen[0], x - lumen[1]) + 0.03 * texture(rng, size, 0.1, 0.1)
    folds = np.cos(reach * rng.uniform(18, 40) + rng.uniform(0, 6.3))
    shade = 1 + rng.uniform(0.05, 0.25) * folds + 0.05 * texture(rng, size, 0.02, 0.02)
    shade = shade * sigmoid((reach - rng.uniform(0.05, 0.18)) * 14)
    shade = shade * (1.1 - rng.uniform(0.4, 1.0) * np.hypot(y - light[0], x - light[1]))
    canvas = np.clip(shade, 0.03, None)[..., None] * mucosa
    paths = []
    for _ in range(6):
        start = (float(rng.random()), float(rng.random()))
        paths.append(wander(rng, start, float(rng.uniform(0, 6.3)), 0.4, 1.5))
    return blend(canvas, lines(size, paths, 0.005, blur=0.7) * 0.4, mucosa * np.array([0.75, 0.4, 0.4]))


def _stalk(rng: np.random.Generator, size: int, centre: Point, radius: float) -> np.ndarray:
    path = wander(rng, centre, float(rng.uniform(0, 2 * np.pi)), radius * float(rng.uniform(1.0, 1.9)), 0.5, steps=10)
    return np.asarray(np.clip(lines(size, [path], radius * float(rng.uniform(0.4, 0.7)), blur=0.6), 0, 1))


def _head(
    rng: np.random.Generator,
    canvas: np.ndarray,
    distance: np.ndarray,
    mucosa: np.ndarray,
    light: Point,
    centre: Point,
    height: float,
) -> np.ndarray:
    """The head with its shading (a dome lit from ``light``) and the shadow beside it."""
    size = canvas.shape[0]
    shift = tuple(round((c - at) * 0.12 * size * height) for c, at in zip(centre, light, strict=True))
    shadow = gaussian_filter(np.roll((distance < 1).astype(np.float64), shift, (0, 1)), 0.03 * size)
    canvas = canvas * (1 - 0.6 * height * shadow)[..., None]
    dome = np.sqrt(np.clip(1 - np.clip(distance, 0, 1) ** 2, 0, 1))
    colour = mucosa * np.array([1.05, rng.uniform(0.7, 1.05), rng.uniform(0.7, 1.05)])
    shade = (1 - 0.7 * height) + 0.8 * height * dome + 0.05 * texture(rng, size, 0.015, 0.015)
    cover = sigmoid((1 - distance) * rng.uniform(8, 30)) * rng.uniform(0.6, 1.0)
    return blend(canvas, cover, shade[..., None] * colour)
