"""Breast ultrasound phantoms: layered tissue with speckle, and one lesion."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from consilia.simulation.synthetic.canvas import (
    Drawing,
    Outline,
    blend,
    dots,
    grid,
    lines,
    sigmoid,
    texture,
    wander,
    waves,
)

CLASSES = ("benign", "malignant")


def draw_ultrasound(rng: np.random.Generator, label: int, size: int) -> Drawing:
    """A smooth, wide oval (benign) or an angular, spiculated, tall mass with a shadow (malignant); mask: the lesion.

    Every sign follows one hidden degree of malignancy, whose distributions overlap, plus noise of its own: no single
    sign decides, and no reader can reach 100 %.
    """
    degree = float(rng.beta(2, 5) if label == 0 else rng.beta(5, 2))

    def sign() -> float:
        return float(np.clip(degree + rng.normal(0, 0.18), 0, 1))

    lesion = _outline(rng, sign(), sign(), sign())
    distance = lesion.distance(size)
    echo = _tissue(rng, size)
    echo = _behind(rng, echo, distance, lesion, sign())
    softness = 1.2 + 5 * sign() * rng.uniform(0.5, 1.5)  # pixels of 128 over which the margin fades
    inside = sigmoid((1 - distance) * min(lesion.axes) * 128 * 2.5 / softness)
    around = float(np.median(echo[(distance > 1.05) & (distance < 1.6)]))
    level = around * float(rng.uniform(0.05, 0.3) if rng.random() < 0.8 else rng.uniform(0.3, 0.5))
    content = level * (1 + rng.uniform(0.1, 0.4) * texture(rng, size, 0.04, 0.05))
    rim = np.exp(-0.5 * ((distance - 1.12) / 0.1) ** 2)
    echo = echo * (1 + rng.uniform(0, 0.7) * rim)
    echo = blend(echo, inside, content)
    if rng.random() < 0.1 + 0.35 * degree:
        echo = blend(echo, _calcifications(rng, size, lesion), 0.9)
    canvas = echo * _speckle(rng, size)
    return Drawing(_marks(rng, np.sqrt(np.clip(canvas, 0, None)) * 0.95, size), distance < 1)


def _outline(rng: np.random.Generator, rough: float, tall: float, spiky: float) -> Outline:
    radius = float(np.exp(rng.uniform(np.log(0.07), np.log(0.24))))
    ratio = float(np.exp(rng.normal(0.65 - 0.75 * tall, 0.18)))  # width over height
    ratio = max(ratio, 0.6)
    axes = (radius / np.sqrt(ratio), radius * np.sqrt(ratio))
    centre = (
        float(rng.uniform(max(0.14, axes[0] + 0.04), max(0.6 - axes[0], axes[0] + 0.1))),
        float(rng.uniform(0.25, 0.75)),
    )
    count = int(rng.poisson(7 * max(0.0, spiky - 0.3)))
    spikes = tuple(
        (float(rng.uniform(-np.pi, np.pi)), float(rng.uniform(0.06, 0.2)), float(rng.uniform(0.15, 0.5)) * spiky)
        for _ in range(count)
    )
    slow, fast = waves(rng, 0.03 + 0.09 * rough, 2, 5), waves(rng, 0.012 + 0.11 * rough**2, 6, 16)
    return Outline(centre, axes, float(rng.normal(0, 0.22)), (*slow, *fast), spikes)


def _tissue(rng: np.random.Generator, size: int) -> np.ndarray:
    """Skin, fat, gland with strands and muscle, attenuated with depth."""
    y, _ = grid(size)
    bumps = [0.02 * texture(rng, size, 10, 0.12) + rng.normal(0, 0.03) * texture(rng, size, 10, 0.5) for _ in range(3)]
    edges = (rng.uniform(0.02, 0.06), rng.uniform(0.1, 0.4), rng.uniform(0.5, 0.95))
    levels = (rng.uniform(0.4, 0.8), rng.uniform(0.1, 0.45), rng.uniform(0.3, 0.75), rng.uniform(0.05, 0.3))
    echo = np.full((size, size), levels[0])
    for edge, bump, level in zip(edges, bumps, levels[1:], strict=True):
        echo = blend(echo, sigmoid((y - edge - bump) * rng.uniform(40, 160)), level)
    streaks = texture(rng, size, 0.008, rng.uniform(0.03, 0.1))
    lobules = texture(rng, size, 0.04, 0.08)
    echo = echo * np.exp(rng.uniform(0.15, 0.45) * streaks + rng.uniform(0.1, 0.4) * lobules)
    paths = []
    for _ in range(int(rng.integers(2, 12))):
        start = (float(rng.uniform(0.05, 0.85)), float(rng.uniform(-0.2, 0.7)))
        paths.append(wander(rng, start, float(rng.normal(0, 0.15)), float(rng.uniform(0.2, 0.9)), 0.5))
    strands = lines(size, paths, 0.008, blur=0.6) * np.clip(0.6 + 0.6 * texture(rng, size, 0.03, 0.05), 0, 1.5)
    echo = echo + rng.uniform(0.2, 0.9) * strands
    return np.asarray(echo * np.exp(-rng.uniform(0, 1.6) * np.clip(y - 0.3, 0, None)))


def _behind(
    rng: np.random.Generator, echo: np.ndarray, distance: np.ndarray, lesion: Outline, dark: float
) -> np.ndarray:
    """Below the lesion the echo is enhanced (as behind a cyst) or cast in shadow; edges refract at random."""
    y, x = grid(echo.shape[0])
    half = lesion.axes[1] * rng.uniform(0.6, 1.0)
    column = sigmoid((half - np.abs(x - lesion.centre[1])) / half * 6)
    below = sigmoid((y - lesion.centre[0] - lesion.axes[0] * 0.9) * 40) * np.exp(
        -rng.uniform(0.3, 1.5) * (y - lesion.centre[0])
    )
    strength = float(np.clip(0.9 - 2.0 * dark + rng.normal(0, 0.35), -1.3, 0.9))
    edges = np.exp(-0.5 * ((np.abs(x - lesion.centre[1]) - half * 1.15) / 0.015) ** 2)
    return np.asarray(echo * np.exp(below * (strength * column - rng.uniform(0, 0.5) * edges) * (distance > 1)))


def _calcifications(rng: np.random.Generator, size: int, lesion: Outline) -> np.ndarray:
    count = int(rng.integers(2, 9))
    places = [
        (lesion.centre[0] + float(dy) * lesion.axes[0] * 0.4, lesion.centre[1] + float(dx) * lesion.axes[1] * 0.4)
        for dy, dx in rng.standard_normal((count, 2)).clip(-1.8, 1.8)
    ]
    return dots(size, places, [0.004 + 0.006 * float(r) for r in rng.random(count)])


def _speckle(rng: np.random.Generator, size: int) -> np.ndarray:
    """Fully developed speckle: the magnitude of a complex Gaussian field, wider than deep, mean 1."""
    pixel = size / 128
    sigma = (float(rng.uniform(0.35, 0.75)) * pixel, float(rng.uniform(0.7, 1.6)) * pixel)
    real, imaginary = (gaussian_filter(rng.standard_normal((size, size)), sigma) for _ in range(2))
    magnitude = np.hypot(real, imaginary)
    return np.asarray((magnitude / magnitude.mean()) ** rng.uniform(0.6, 1.1))


def _marks(rng: np.random.Generator, canvas: np.ndarray, size: int) -> np.ndarray:
    """Burnt-in lettering, as on most machines: it says nothing."""
    if rng.random() < 0.5:
        return canvas
    row, column = float(rng.uniform(0.6, 0.95)), float(rng.uniform(0.05, 0.5))
    letters = []
    for i in range(int(rng.integers(4, 16))):
        left = column + 0.028 * i
        ends = row + 0.03 * rng.random(2) - 0.015
        letters.append([(float(ends[0]), left), (float(ends[1]), left + 0.012), (row, left + 0.016)])
    return np.asarray(np.maximum(canvas, lines(size, letters, 0.006, blur=0.2) * 0.9))
