"""Fundus phantoms: a retina with optic disc, macula and vessels, and the lesions of diabetic retinopathy."""

from __future__ import annotations

import numpy as np

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

CLASSES = ("none", "mild", "moderate", "severe", "proliferative")
# Expected numbers per grade of microaneurysms, haemorrhages, exudates, cotton-wool spots, tufts of new vessels.
_LESIONS = np.array([[0.3, 0, 0, 0, 0], [4, 0.3, 0, 0, 0], [8, 3, 5, 0.5, 0], [12, 9, 9, 2.5, 0.1], [9, 7, 7, 2, 3]])


def draw_fundus(rng: np.random.Generator, label: int, size: int) -> Drawing:
    """Number and kind of lesions follow the grade (Poisson: neighbouring grades overlap); mask: the optic disc."""
    side = 1 if rng.random() < 0.5 else -1
    radius = float(rng.uniform(0.05, 0.075))
    disc = Outline(
        (float(rng.normal(0.5, 0.03)), 0.5 + side * float(rng.uniform(0.22, 0.3))),
        (radius * float(rng.uniform(1.0, 1.2)), radius),
        float(rng.normal(0, 0.2)),
        waves(rng, 0.02, 2, 4),
    )
    canvas = _retina(rng, size, disc, side)
    canvas = _lesions(rng, canvas, rng.poisson(_LESIONS[label]), disc)
    y, x = grid(size)
    field = sigmoid((0.48 - np.hypot(y - 0.5, x - 0.5)) * 90)
    return Drawing(canvas * field[..., None], disc.distance(size) < 1)


def _retina(rng: np.random.Generator, size: int, disc: Outline, side: int) -> np.ndarray:
    y, x = grid(size)
    base = np.array([0.75, 0.36, 0.16]) * rng.uniform(0.8, 1.15, 3)
    shade = 1 - 0.9 * ((y - 0.5) ** 2 + (x - 0.5) ** 2) + 0.06 * texture(rng, size, 0.08, 0.08)
    canvas = shade[..., None] * base
    macula = np.exp(-0.5 * (np.hypot(y - 0.52, x - disc.centre[1] + side * 0.3) / 0.06) ** 2)
    canvas = blend(canvas, macula * rng.uniform(0.3, 0.6), base * 0.45)
    distance = disc.distance(size)
    canvas = blend(canvas, sigmoid((1 - distance) * 14) * rng.uniform(0.6, 0.95), (1.0, 0.82, 0.5))
    cup = float(rng.uniform(0.2, 0.6))
    canvas = blend(canvas, sigmoid((cup - distance) * 10) * 0.6, (1.0, 0.95, 0.8))
    return _vessels(rng, canvas, disc, side)


def _vessels(rng: np.random.Generator, canvas: np.ndarray, disc: Outline, side: int) -> np.ndarray:
    """Arcades from the disc around the macula, and branches of them."""
    size = canvas.shape[0]
    trunks, branches = [], []
    for up in (-1, 1):
        for spread in (0.5, 1.0, 2.2):
            heading = np.arctan2(up * 1.0, -side * (1.1 - spread)) + float(rng.normal(0, 0.15))
            path = wander(rng, disc.centre, heading, float(rng.uniform(0.4, 0.75)), 0.7)
            trunks.append(path)
            for start in (path[6], path[11], path[16]):
                turn = heading + float(rng.choice([-1, 1]) * rng.uniform(0.4, 1.0))
                branches.append(wander(rng, start, turn, float(rng.uniform(0.12, 0.35)), 0.8))
    dark = np.array([0.42, 0.1, 0.07]) * rng.uniform(0.85, 1.15)
    canvas = blend(canvas, lines(size, trunks, 0.014) * 0.8, dark)
    return blend(canvas, lines(size, branches, 0.007) * 0.7, dark)


def _place(rng: np.random.Generator, count: int) -> list[Point]:
    angle, reach = rng.uniform(0, 2 * np.pi, count), 0.42 * np.sqrt(rng.random(count))
    return [(0.5 + float(r * np.sin(a)), 0.5 + float(r * np.cos(a))) for a, r in zip(angle, reach, strict=True)]


def _lesions(rng: np.random.Generator, canvas: np.ndarray, counts: np.ndarray, disc: Outline) -> np.ndarray:
    aneurysms, bleedings, exudates, wool, tufts = (int(count) for count in counts)
    size = canvas.shape[0]
    red = (0.38, 0.06, 0.05)
    spots = dots(size, _place(rng, aneurysms), [float(r) for r in rng.uniform(0.007, 0.012, aneurysms)])
    canvas = blend(canvas, spots * 0.85, red)
    for place in _place(rng, bleedings):
        axes = (float(rng.uniform(0.012, 0.03)), float(rng.uniform(0.015, 0.045)))
        blot = Outline(place, axes, float(rng.uniform(0, np.pi)), waves(rng, 0.15, 2, 6))
        canvas = blend(canvas, sigmoid((1 - blot.distance(size)) * 8) * 0.8, red)
    cluster = _place(rng, 1)[0]
    hard = [(cluster[0] + float(dy), cluster[1] + float(dx)) for dy, dx in rng.normal(0, 0.06, (exudates, 2))]
    yellow = dots(size, hard, [float(r) for r in rng.uniform(0.006, 0.016, exudates)])
    canvas = blend(canvas, yellow * 0.9, (1.0, 0.9, 0.45))
    soft = sum(
        (np.exp(-0.5 * _reach(size, place, float(rng.uniform(0.015, 0.03)))) for place in _place(rng, wool)),
        np.zeros((size, size)),
    )
    canvas = blend(canvas, np.clip(soft, 0, 1) * 0.7, (0.95, 0.85, 0.7))
    paths = []
    for place in [disc.centre, *_place(rng, max(tufts - 1, 0))][:tufts]:
        paths += [
            wander(rng, place, float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.06, 0.16)), 4.0) for _ in range(7)
        ]
    return blend(canvas, lines(size, paths, 0.005, blur=0.3) * 0.9, red) if paths else canvas


def _reach(size: int, place: Point, sigma: float) -> np.ndarray:
    y, x = grid(size)
    return np.asarray(((y - place[0]) ** 2 + (x - place[1]) ** 2) / sigma**2)
