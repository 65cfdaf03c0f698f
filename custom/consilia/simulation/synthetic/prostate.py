"""Prostate phantoms: a gray slice as of T2-weighted MRI, the gland with its two zones, perhaps a dark focus."""

from __future__ import annotations

import numpy as np

from consilia.simulation.synthetic.canvas import Drawing, Outline, blend, grid, sigmoid, texture, waves

CLASSES = ("clear", "suspicious")


def draw_prostate(rng: np.random.Generator, label: int, size: int) -> Drawing:
    """A gland with a bright peripheral and a nodular central zone; ``suspicious`` has a dark focus; mask: the gland.

    Clear glands have fainter dark patches (prostatitis) now and then, so that darkness alone does not decide.
    """
    gland = Outline(
        centre=(float(rng.normal(0.5, 0.04)), float(rng.normal(0.5, 0.04))),
        axes=(float(rng.uniform(0.15, 0.25)), float(rng.uniform(0.18, 0.29))),
        tilt=float(rng.normal(0, 0.12)),
        waves=waves(rng, 0.035, 2, 6),
    )
    distance = gland.distance(size)
    canvas = _pelvis(rng, size, gland)
    peripheral = float(rng.uniform(0.55, 0.85))
    inside = sigmoid((1 - distance) * 25)
    canvas = blend(canvas, inside, peripheral * (1 + 0.08 * texture(rng, size, 0.02, 0.02)))
    canvas = blend(canvas, _central_zone(rng, gland, size), _nodules(rng, size, peripheral))
    capsule = np.exp(-0.5 * ((distance - 1.02) / 0.04) ** 2)
    canvas = blend(canvas, capsule * rng.uniform(0.3, 0.8), 0.12)
    focus, strength = _focus(rng, gland, label, size)
    canvas = blend(canvas, focus * strength * inside, 0.2 * (1 + 0.1 * texture(rng, size, 0.02, 0.02)))
    field = np.exp(rng.uniform(0.05, 0.25) * texture(rng, size, 0.4, 0.4))
    return Drawing(canvas * field * 0.9, distance < 1)


def _pelvis(rng: np.random.Generator, size: int, gland: Outline) -> np.ndarray:
    """Fat, muscle on both sides, bladder in front and rectum behind."""
    canvas = np.full((size, size), float(rng.uniform(0.45, 0.75)))
    canvas = canvas * (1 + 0.18 * texture(rng, size, 0.05, 0.05))
    cy, cx = gland.centre
    for side in (-1, 1):
        muscle = Outline(
            (cy + float(rng.normal(0, 0.05)), cx + side * float(rng.uniform(0.36, 0.46))),
            (float(rng.uniform(0.2, 0.35)), float(rng.uniform(0.06, 0.12))),
            side * float(rng.uniform(0, 0.4)),
            waves(rng, 0.06, 2, 6),
        )
        canvas = blend(canvas, sigmoid((1 - muscle.distance(size)) * 12), float(rng.uniform(0.15, 0.3)))
    bladder = Outline(
        (cy - gland.axes[0] - 0.14, cx), (0.12, float(rng.uniform(0.12, 0.25))), 0.0, waves(rng, 0.05, 2, 4)
    )
    rectum = Outline(
        (cy + gland.axes[0] + 0.12, cx), (0.1, float(rng.uniform(0.08, 0.14))), 0.0, waves(rng, 0.08, 2, 5)
    )
    canvas = blend(canvas, sigmoid((1 - bladder.distance(size)) * 20), float(rng.uniform(0.7, 1.0)))
    canvas = blend(canvas, sigmoid((1 - rectum.distance(size)) * 20), float(rng.uniform(0.05, 0.5)))
    y, x = grid(size)
    body = sigmoid((0.56 - np.hypot((y - 0.5) * 1.1, x - 0.5)) * 60)
    return np.asarray(canvas * body + 0.02)


def _central_zone(rng: np.random.Generator, gland: Outline, size: int) -> np.ndarray:
    part = float(rng.uniform(0.55, 0.8))
    centre = (gland.centre[0] - gland.axes[0] * (1 - part) * 0.7, gland.centre[1])
    zone = Outline(centre, (gland.axes[0] * part, gland.axes[1] * part), gland.tilt, waves(rng, 0.05, 2, 6))
    return sigmoid((1 - zone.distance(size)) * 14)


def _nodules(rng: np.random.Generator, size: int, peripheral: float) -> np.ndarray:
    level = peripheral * rng.uniform(0.5, 0.75)
    return np.asarray(level * np.exp(rng.uniform(0.1, 0.3) * texture(rng, size, 0.03, 0.03)))


def _focus(rng: np.random.Generator, gland: Outline, label: int, size: int) -> tuple[np.ndarray, float]:
    """Where the dark focus is, (H, W) in 0..1, and how dark."""
    angle = float(rng.uniform(0.15, np.pi - 0.15))  # towards the back, where the peripheral zone is
    reach = float(rng.uniform(0.6, 0.8))
    centre = (
        gland.centre[0] + np.sin(angle) * reach * gland.axes[0],
        gland.centre[1] + np.cos(angle) * reach * gland.axes[1],
    )
    if label == 1:
        axes, strength = (
            (float(rng.uniform(0.025, 0.06)), float(rng.uniform(0.03, 0.08))),
            float(rng.uniform(0.4, 0.95)),
        )
    else:
        axes = (float(rng.uniform(0.02, 0.05)), float(rng.uniform(0.05, 0.12)))
        strength = float(rng.uniform(0.1, 0.5)) if rng.random() < 0.4 else 0.0
    spot = Outline(centre, axes, angle - np.pi / 2, waves(rng, 0.12, 2, 6))
    return sigmoid((1 - spot.distance(size)) * 5), strength
