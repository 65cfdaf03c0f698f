"""The kinds of phantom and how a number of them is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from consilia.core.determinism import derive_seed
from consilia.core.errors import ConfigError
from consilia.simulation.synthetic import fundus, polyp, prostate, skin, ultrasound
from consilia.simulation.synthetic.canvas import Drawing, Look

Draw = Callable[[np.random.Generator, int, int], Drawing]


@dataclass(frozen=True)
class PhantomKind:
    """One kind of phantom: its classes in the order of their labels, and what its mask marks."""

    name: str
    classes: tuple[str, ...]
    mode: Literal["rgb", "gray"]
    structure: str
    draw: Draw


KINDS: dict[str, PhantomKind] = {
    kind.name: kind
    for kind in (
        PhantomKind("fundus", fundus.CLASSES, "rgb", "optic_disc", fundus.draw_fundus),
        PhantomKind("skin", skin.CLASSES, "rgb", "lesion", skin.draw_skin),
        PhantomKind("polyp", polyp.CLASSES, "rgb", "polyp", polyp.draw_polyp),
        PhantomKind("prostate", prostate.CLASSES, "gray", "gland", prostate.draw_prostate),
        PhantomKind("ultrasound", ultrasound.CLASSES, "gray", "lesion", ultrasound.draw_ultrasound),
    )
}


@dataclass(frozen=True)
class Phantoms:
    """``images`` uint8 (N, H, W, 3) for rgb kinds and (N, H, W) for gray, ``masks`` uint8 (N, H, W) of 0 and 255,
    ``labels`` int64 (N,)."""

    images: np.ndarray
    masks: np.ndarray
    labels: np.ndarray


def draw_phantoms(
    kind: str,
    count: int,
    *,
    seed: int,
    scanner: int = 0,
    class_weights: Sequence[float] | None = None,
    size: int = 128,
) -> Phantoms:
    """Draw ``count`` phantoms of one kind.

    Case i depends on kind, seed, i, class weights and size only, and on the scanner for its look: the same seed at
    two scanners is the same anatomy seen twice.

    Args:
        kind: a name in :data:`KINDS`.
        count: how many.
        seed: of the anatomy.
        scanner: which invented scanner saw it (contrast, gain, tint, blur, noise); any integer.
        class_weights: how frequent each class is, in any unit; all alike by default.
        size: side of the square image in pixels.

    Raises:
        ConfigError: there is no such kind, or the weights do not fit its classes.
    """
    if kind not in KINDS:
        raise ConfigError(f"phantom kind must be one of {sorted(KINDS)}, got {kind!r}")
    if count < 0 or size < 16:
        raise ConfigError(f"phantoms need count >= 0 and size >= 16, got {count} and {size}")
    chosen = KINDS[kind]
    shares = _shares(chosen, class_weights)
    look = Look.of(kind, scanner)
    images = np.zeros((count, size, size, 3) if chosen.mode == "rgb" else (count, size, size), dtype=np.uint8)
    masks = np.zeros((count, size, size), dtype=np.uint8)
    labels = np.zeros(count, dtype=np.int64)
    for i in range(count):
        rng = np.random.default_rng(derive_seed(seed, "phantom", kind, i))
        labels[i] = np.searchsorted(np.cumsum(shares)[:-1], rng.random(), side="right")
        drawing = chosen.draw(rng, int(labels[i]), size)
        images[i] = look.render(rng, drawing.canvas)
        masks[i] = drawing.mask * np.uint8(255)
    return Phantoms(images, masks, labels)


def _shares(kind: PhantomKind, weights: Sequence[float] | None) -> np.ndarray:
    values = np.asarray([1.0] * len(kind.classes) if weights is None else weights, dtype=np.float64)
    if values.shape != (len(kind.classes),) or not np.isfinite(values).all() or (values < 0).any() or not values.sum():
        raise ConfigError(
            f"class_weights of {kind.name}: expected {len(kind.classes)} numbers >= 0 for {list(kind.classes)}, "
            f"not all 0, got {weights}"
        )
    return np.asarray(values / values.sum())
