"""The drawing tools that all phantoms share, and the look that a scanner gives to what it sees.

Positions are fractions of the image side (0 at the top and left, 1 at the bottom and right); a canvas holds float64
intensities around 0..1, (H, W) for gray and (H, W, 3) for colour images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from consilia.core.determinism import derive_seed

Canvas = np.ndarray
Point = tuple[float, float]  # (y, x)


@dataclass(frozen=True)
class Drawing:
    """One phantom before the scanner sees it: its canvas and the structure that is to be found, (H, W) bool."""

    canvas: Canvas
    mask: np.ndarray


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The y and x of every pixel centre, each (H, W)."""
    axis = (np.arange(size) + 0.5) / size
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return y, x


def texture(rng: np.random.Generator, size: int, vertical: float, horizontal: float) -> np.ndarray:
    """Smooth noise (H, W) of mean 0 and variance 1; correlation lengths in fractions of the side.

    White noise under a Gaussian filter, by FFT: the filters are often wider than the image.
    """
    rows = np.exp(-2 * (np.pi * vertical * size * np.fft.fftfreq(size)) ** 2)
    columns = np.exp(-2 * (np.pi * horizontal * size * np.fft.rfftfreq(size)) ** 2)
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) * rows[:, None] * columns
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=(size, size))
    return np.asarray(noise / max(float(noise.std()), 1e-12))


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x))"""
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -40, 40))))


@dataclass(frozen=True)
class Outline:
    """A closed curve around ``centre``: an ellipse with half axes (y, x), turned by ``tilt`` radians, then disturbed.

    ``waves`` holds (frequency, amplitude, phase) of the relative radius; ``spikes`` holds (angle, width, height).
    """

    centre: Point
    axes: Point
    tilt: float = 0.0
    waves: tuple[tuple[int, float, float], ...] = ()
    spikes: tuple[tuple[float, float, float], ...] = ()

    def distance(self, size: int) -> np.ndarray:
        """(H, W): the distance from the centre relative to the curve; below 1 is inside."""
        y, x = grid(size)
        dy, dx = y - self.centre[0], x - self.centre[1]
        cos, sin = np.cos(self.tilt), np.sin(self.tilt)
        v, u = (-dx * sin + dy * cos) / self.axes[0], (dx * cos + dy * sin) / self.axes[1]
        angle = np.arctan2(v, u)
        radius = np.ones_like(angle)
        for frequency, amplitude, phase in self.waves:
            radius += amplitude * np.cos(frequency * angle + phase)
        for at, width, height in self.spikes:
            turn = np.angle(np.exp(1j * (angle - at)))
            radius += height * np.exp(-0.5 * (turn / width) ** 2)
        return np.asarray(np.hypot(v, u) / np.maximum(radius, 0.2))


def waves(
    rng: np.random.Generator, amplitude: float, lowest: int = 2, highest: int = 9
) -> tuple[tuple[int, float, float], ...]:
    """Random disturbances of an outline: the relative radius gets a standard deviation of about ``amplitude``."""
    frequencies = np.arange(lowest, highest + 1)
    falling = 1 / np.sqrt(frequencies)
    sizes = rng.standard_normal(len(frequencies)) * falling * amplitude * np.sqrt(2 / (falling**2).sum())
    phases = rng.uniform(0, 2 * np.pi, len(frequencies))
    return tuple((int(f), float(a), float(p)) for f, a, p in zip(frequencies, sizes, phases, strict=True))


def lines(size: int, paths: Sequence[Sequence[Point]], width: float, blur: float = 0.4) -> np.ndarray:
    """Curves through the points of each path, (H, W) in 0..1; ``width`` in fractions of the side, blur in pixels."""
    scale = 2  # drawn larger and reduced: Pillow draws without anti-aliasing
    image = Image.new("L", (size * scale, size * scale))
    draw = ImageDraw.Draw(image)
    for path in paths:
        points = [(x * size * scale, y * size * scale) for y, x in path]
        draw.line(points, fill=255, width=max(1, round(width * size * scale)), joint="curve")
    reduced = np.asarray(image.resize((size, size), Image.Resampling.BOX), dtype=np.float64) / 255
    return np.asarray(gaussian_filter(reduced, blur))


def wander(
    rng: np.random.Generator, start: Point, heading: float, length: float, bend: float, steps: int = 24
) -> list[Point]:
    """A path of ``length`` from ``start``; ``heading`` in radians from the x axis, turning by about ``bend`` in all."""
    turns = heading + np.cumsum(rng.normal(0, bend / np.sqrt(steps), steps))
    y = start[0] + np.cumsum(np.sin(turns)) * length / steps
    x = start[1] + np.cumsum(np.cos(turns)) * length / steps
    return [start, *((float(a), float(b)) for a, b in zip(y, x, strict=True))]


def dots(size: int, points: Sequence[Point], radii: Sequence[float]) -> np.ndarray:
    """Soft round spots (H, W) in 0..1; positions and radii in fractions of the side."""
    y, x = grid(size)
    spots = np.zeros((size, size))
    for (cy, cx), radius in zip(points, radii, strict=True):
        distance = np.hypot(y - cy, x - cx)
        np.maximum(spots, sigmoid((radius - distance) * size * 1.5), out=spots)
    return spots


def blend(canvas: Canvas, where: np.ndarray, value: float | Sequence[float] | np.ndarray) -> Canvas:
    """``canvas`` mixed with ``value`` (a level, a colour or a canvas) by the weights ``where``, (H, W) in 0..1."""
    weights = where[..., None] if canvas.ndim == 3 else where
    return np.asarray(canvas * (1 - weights) + weights * np.asarray(value, dtype=np.float64))


@dataclass(frozen=True)
class Look:
    """How one scanner renders: ``gain * canvas ** gamma`` per channel, blurred (pixels of 128), with noise."""

    gain: float
    gamma: float
    tint: tuple[float, float, float]
    blur: float
    noise: float
    fading: float  # how much darker the corners are

    @classmethod
    def of(cls, kind: str, scanner: int) -> Look:
        """The look of one scanner: the same number means the same scanner."""
        rng = np.random.default_rng(derive_seed(scanner, "phantom scanner", kind))
        red, green, blue = (float(value) for value in rng.uniform(0.86, 1.14, 3))
        return cls(
            gain=float(rng.uniform(0.75, 1.15)),
            gamma=float(np.exp(rng.uniform(-0.35, 0.35))),
            tint=(red, green, blue),
            blur=float(rng.uniform(0.2, 0.9)),
            noise=float(rng.uniform(0.005, 0.035)),
            fading=float(rng.uniform(0, 0.35)),
        )

    def render(self, rng: np.random.Generator, canvas: Canvas) -> np.ndarray:
        """The image as uint8, of the canvas's shape."""
        size = canvas.shape[0]
        y, x = grid(size)
        seen = self.gain * np.clip(canvas, 0, 1.2) ** self.gamma
        corners = 1 - self.fading * ((y - 0.5) ** 2 + (x - 0.5) ** 2) * 2
        sigma = self.blur * size / 128
        if canvas.ndim == 3:
            seen = gaussian_filter(seen * np.asarray(self.tint), (sigma, sigma, 0)) * corners[..., None]
        else:
            seen = gaussian_filter(seen, sigma) * corners
        noisy = seen + rng.normal(0, self.noise, seen.shape)
        return np.asarray(np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8))
