"""Skin phantoms: a pigmented lesion as a dermatoscope shows it."""

from __future__ import annotations

import numpy as np

from consilia.simulation.synthetic.canvas import Drawing, Outline, blend, lines, sigmoid, texture, wander, waves

CLASSES = ("nevus", "melanoma")


def draw_skin(rng: np.random.Generator, label: int, size: int) -> Drawing:
    """Asymmetry, border and colours (dermatology's A, B, C) follow a hidden degree of atypia; mask: the lesion."""
    degree = float(rng.beta(2, 5) if label == 0 else rng.beta(5, 2))

    def sign() -> float:
        return float(np.clip(degree + rng.normal(0, 0.2), 0, 1))

    asymmetry, border, colours = sign(), sign(), sign()
    radius = float(rng.uniform(0.14, 0.3))
    stretch = float(np.exp(rng.normal(0, 0.15)))
    lesion = Outline(
        (float(rng.normal(0.5, 0.05)), float(rng.normal(0.5, 0.05))),
        (radius * stretch, radius / stretch),
        float(rng.uniform(0, np.pi)),
        (*waves(rng, 0.015 + 0.16 * asymmetry, 1, 4), *waves(rng, 0.008 + 0.06 * border, 6, 18)),
    )
    distance = lesion.distance(size)
    tone = np.array([0.87, 0.68, 0.56]) * rng.uniform(0.75, 1.1)
    canvas = (1 + 0.05 * texture(rng, size, 0.012, 0.012) + 0.05 * texture(rng, size, 0.2, 0.2))[..., None] * tone
    inside = sigmoid((1 - distance) * rng.uniform(6, 22))
    canvas = blend(canvas, inside, _pigment(rng, size, tone, colours, distance))
    return Drawing(_hairs(rng, canvas), distance < 1)


def _pigment(rng: np.random.Generator, size: int, tone: np.ndarray, colours: float, distance: np.ndarray) -> np.ndarray:
    """Brown with a network and a darker middle; patches of black, blue-gray, red and white come with atypia."""
    brown = tone * np.array([0.62, 0.5, 0.42]) * rng.uniform(0.75, 1.15)
    network = 1 + rng.uniform(0.04, 0.14) * texture(rng, size, 0.012, 0.012)
    middle = 1 - rng.uniform(0, 0.3) * np.exp(-(distance**2) * 2)
    pigment = (network * middle)[..., None] * brown
    others = np.array([[0.1, 0.07, 0.07], [0.35, 0.38, 0.48], [0.7, 0.25, 0.22], [0.85, 0.8, 0.78]])
    for colour in others[rng.permutation(4)[: int(rng.binomial(4, 0.15 + 0.6 * colours))]]:
        patch = sigmoid((texture(rng, size, 0.07, 0.07) - rng.uniform(0.5, 1.3)) * 5)
        pigment = blend(pigment, patch * rng.uniform(0.4, 0.8), colour)
    return np.asarray(pigment)


def _hairs(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    count = int(rng.poisson(3)) if rng.random() < 0.6 else 0
    if not count:
        return canvas
    heading = float(rng.uniform(0, np.pi))
    paths = []
    for _ in range(count):
        start = (float(rng.uniform(0, 1)), float(rng.uniform(0, 1)))
        paths.append(wander(rng, start, heading + float(rng.normal(0, 0.5)), float(rng.uniform(0.3, 0.9)), 0.6))
    return blend(canvas, lines(canvas.shape[0], paths, 0.007) * 0.85, (0.12, 0.08, 0.06))
