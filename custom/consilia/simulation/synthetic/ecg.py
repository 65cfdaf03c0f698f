"""Synthetic ECGs: ten seconds of twelve leads at 100 Hz, from a turning dipole.

The heart is a dipole whose course over a beat is a sum of Gaussians (Sameni et al. 2007, equations 3 and 4, after
McSharry et al. 2003), in Frank's axes: x to the left, y to the feet, z to the back. Dower's matrix (Dower et al. 1980)
gives the eight independent leads, Einthoven's and Goldberger's equations the other four.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from consilia.core.determinism import derive_seed
from consilia.core.errors import ConfigError
from consilia.core.files import write_bytes

CLASSES = ("normal", "abnormal")
FINDINGS = ("wide-qrs", "st-shift", "t-inversion", "irregular")
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
FREQUENCY = 100
SAMPLES = 1000
GAIN = 1000.0
"""Units per mV of a record."""
FAST = 100.0
"""Beats per minute above which a rhythm is called fast (sinus tachycardia's limit)."""

_DOWER = np.array(  # x, y, z -> I, II, V1..V6
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
# Waves P, Q, R, S, ST segment, T: centre after the R peak and standard deviation (s, at 60 beats per minute), dipole
# (mV). The ST segment of a healthy heart is at zero.
_CENTRES = np.array([-0.16, -0.028, 0.0, 0.028, 0.12, 0.28])
_WIDTHS = np.array([0.022, 0.009, 0.012, 0.011, 0.04, 0.045])
_DIPOLES = np.array(
    [
        [0.06, 0.12, -0.01],
        [-0.12, -0.05, -0.22],
        [1.1, 0.8, 0.25],
        [-0.1, -0.1, 0.45],
        [0.0, 0.0, 0.0],
        [0.3, 0.2, -0.22],
    ]
)
_P, _QRS, _ST, _T = 0, slice(1, 4), 4, 5


@dataclass(frozen=True)
class Ecgs:
    """``signals`` float32 (N, 12, SAMPLES) in mV, ``labels`` int64 (N,) in the order of CLASSES, ``rates`` (N,) in
    beats per minute, ``findings``: which of FINDINGS each case has in some degree."""

    signals: np.ndarray
    labels: np.ndarray
    rates: np.ndarray
    findings: tuple[str, ...]


@dataclass
class _Heart:
    """One case's waves (as the module's tables), its rhythm, and the fibrillation of its atria in mV."""

    centres: np.ndarray
    widths: np.ndarray
    dipoles: np.ndarray
    rate: float
    spread: float  # of the RR intervals, relative
    flutter: float


def draw_ecgs(count: int, *, seed: int, recorder: int = 0, abnormal: float = 0.5) -> Ecgs:
    """Draw ``count`` ECGs.

    Each has one finding in some degree; a high degree is abnormal, a low one normal, and their distributions overlap.
    The heart rate has no part in the label. Case i depends on seed, i and ``abnormal`` only, and on the recorder for
    gain and noise.

    Args:
        count: how many.
        seed: of the hearts.
        recorder: which invented machine recorded them; any integer.
        abnormal: share of abnormal ones.

    Raises:
        ConfigError: the count is negative or the share is outside 0 to 1.
    """
    if count < 0 or not 0 <= abnormal <= 1:
        raise ConfigError(f"synthetic ECGs need count >= 0 and abnormal from 0 to 1, got {count} and {abnormal}")
    machine = np.random.default_rng(derive_seed(recorder, "phantom ecg recorder"))
    gain, hum = float(machine.uniform(0.9, 1.1)), float(machine.uniform(0.5, 1.5))
    signals = np.zeros((count, len(LEADS), SAMPLES), dtype=np.float32)
    labels, rates, findings = np.zeros(count, dtype=np.int64), np.zeros(count), []
    for i in range(count):
        rng = np.random.default_rng(derive_seed(seed, "phantom ecg", i))
        labels[i] = int(rng.random() < abnormal)
        findings.append(str(rng.choice(FINDINGS)))
        degree = float(rng.beta(6, 2) if labels[i] else rng.beta(2, 8))
        heart = _heart(rng, findings[-1], degree)
        rates[i] = heart.rate
        eight = _DOWER @ _dipole(rng, heart) + hum * _disturbance(rng)
        signals[i] = gain * _twelve(eight)
    return Ecgs(signals, labels, rates, tuple(findings))


def write_record(folder: Path, name: str, signal: np.ndarray) -> None:
    """Write a signal (12, SAMPLES) in mV as a WFDB record of 16 bits, 1000 units per mV.

    The bytes are those of ``wfdb.wrsamp``, which takes ten times as long to compose a header.
    """
    units = np.rint(signal.astype(np.float64) * GAIN).astype("<i2")
    lines = [f"{name} {len(LEADS)} {FREQUENCY} {SAMPLES}"]
    for lead, values in zip(LEADS, units, strict=True):
        checksum = int(values.sum(dtype=np.int64)) % 65536
        lines.append(f"{name}.dat 16 {GAIN}(0)/mV 16 0 {values[0]} {checksum} 0 {lead}")
    write_bytes(folder / f"{name}.dat", units.T.tobytes(), durable=False)
    write_bytes(folder / f"{name}.hea", ("\n".join(lines) + "\n").encode(), durable=False)


def _heart(rng: np.random.Generator, finding: str, degree: float) -> _Heart:
    """A healthy heart of random build, and the finding in its degree (0 to 1)."""
    rate = float(np.clip(rng.normal(72, 9) if rng.random() < 0.6 else rng.normal(112, 12), 48, 150))
    build = np.eye(3) + rng.normal(0, 0.12, (3, 3))  # how the heart lies in the chest
    dipoles = _DIPOLES * np.exp(rng.normal(0, 0.15, (len(_DIPOLES), 1))) @ build.T * np.exp(rng.normal(0, 0.15))
    # Repolarisation shortens with the square root of the RR interval (Bazett), the QRS complex does not.
    stretch = np.where(np.arange(len(_CENTRES)) >= _ST, np.sqrt(60 / rate), 1.0)
    centres, widths = _CENTRES * stretch, _WIDTHS * stretch * np.exp(rng.normal(0, 0.08, len(_WIDTHS)))
    heart = _Heart(centres, widths, dipoles, rate, spread=float(rng.uniform(0.01, 0.05)), flutter=0.0)
    if finding == "wide-qrs":
        heart.widths[_QRS] *= 1 + 1.1 * degree
        heart.centres[_QRS] *= 1 + 0.9 * degree
        heart.dipoles[_T] *= 1 - 0.7 * degree
    elif finding == "st-shift":
        injured = np.array([0.4, 0.2, -0.9]) if rng.random() < 0.5 else np.array([0.1, 0.9, 0.4])
        heart.dipoles[_ST] = 0.45 * degree * injured  # of the front wall or the lower one
    elif finding == "t-inversion":
        heart.dipoles[_T] *= 1 - 1.6 * degree
    else:
        heart.dipoles[_P] *= 1 - degree
        heart.spread += 0.3 * degree
        heart.flutter = 0.12 * degree
    return heart


def _dipole(rng: np.random.Generator, heart: _Heart) -> np.ndarray:
    """The dipole (3, SAMPLES) over the recording."""
    time = np.arange(SAMPLES) / FREQUENCY
    period = 60 / heart.rate
    count = int(np.ceil(1.5 * SAMPLES / FREQUENCY / period)) + 3  # more than fit, whatever the intervals come to
    intervals = period * np.clip(1 + heart.spread * rng.standard_normal(count), 0.55, 1.6)
    beats = np.cumsum(intervals) - period * (1 + rng.random())
    course = np.zeros((3, SAMPLES))
    for centre, width, dipole in zip(heart.centres, heart.widths, heart.dipoles, strict=True):
        course += dipole[:, None] * np.exp(-0.5 * ((time - beats[:, None] - centre) / width) ** 2).sum(axis=0)
    if heart.flutter:
        turns = 2 * np.pi * np.cumsum(rng.uniform(4.5, 7.5, SAMPLES) / FREQUENCY) + rng.uniform(0, 2 * np.pi)
        course += heart.flutter * np.array([[0.2], [0.5], [-0.8]]) * np.sin(turns)
    return course


def _disturbance(rng: np.random.Generator) -> np.ndarray:
    """Breathing, drift and muscle (8, SAMPLES) in mV."""
    time = np.arange(SAMPLES) / FREQUENCY
    slow = np.zeros((len(_DOWER), SAMPLES))
    for low, high in ((0.05, 0.15), (0.18, 0.35)):
        strength = rng.normal(0, 0.04, (len(_DOWER), 1))
        slow += strength * np.sin(2 * np.pi * rng.uniform(low, high) * time + rng.uniform(0, 2 * np.pi))
    return slow + rng.uniform(0.01, 0.03) * rng.standard_normal((len(_DOWER), SAMPLES))


def _twelve(eight: np.ndarray) -> np.ndarray:
    """I, II, V1 to V6 (8, SAMPLES) -> all leads (12, SAMPLES): III = II - I, aVR = -(I + II) / 2, and so on."""
    one, two = eight[0], eight[1]
    return np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2, *eight[2:]])
