"""Synthetic intensive care: 48 features over 24 hours, driven by how ill a patient is and how ill his kidneys are.

Every patient has a hidden severity s and a hidden kidney injury k, both standard normal and correlated by 0.5.

- ``injury``: k > 0.35 (36 % of patients).
- ``death``: with probability 1 / (1 + exp(1.8 - 1.7 s)) (about one in four).
- Each feature starts at its typical value, moved by ``severity`` * s and ``kidney`` * max(k, 0) of its spreads, and
  wanders from hour to hour. What the kidneys move (creatinine, urea, potassium, phosphate up; urine, bicarbonate down)
  moves over the day: little at first, in full after 24 hours.
- Mean pressure, pH and base excess follow from the others, by their equations.
- A feature is seen in an hour by chance: vital signs nearly always, most laboratory values a few times a day or never.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from consilia.core.determinism import derive_seed
from consilia.core.errors import ConfigError

HOURS = 24
THRESHOLD = 0.35


class Feature(NamedTuple):
    """A feature's unit and how it comes about; ``spread`` and the effects are relative where ``log`` is set."""

    unit: str
    typical: float
    spread: float
    severity: float = 0.0
    kidney: float = 0.0
    seen: float = 0.1
    log: bool = False


# In the order vitals, labs, fluids; effects in spreads per unit of severity and of kidney injury.
VITALS = {
    "hr": Feature("1/min", 86, 14, 0.6, seen=0.97),
    "sbp": Feature("mmHg", 122, 18, -0.5, 0.1, 0.95),
    "dbp": Feature("mmHg", 65, 11, -0.4, seen=0.95),
    "map": Feature("mmHg", 84, 0, seen=0.95),
    "resp": Feature("1/min", 19, 4, 0.5, seen=0.95),
    "o2sat": Feature("%", 97, 1.8, -0.4, seen=0.97),
    "fio2": Feature("%", 38, 0.25, 0.4, seen=0.3, log=True),
    "temp": Feature("C", 37.0, 0.6, 0.2, seen=0.5),
}
LABS = {
    "alb": Feature("g/dl", 3.1, 0.5, -0.4, seen=0.06),
    "alp": Feature("IU/l", 85, 0.4, 0.1, seen=0.05, log=True),
    "alt": Feature("IU/l", 30, 0.7, 0.2, seen=0.05, log=True),
    "ast": Feature("IU/l", 38, 0.7, 0.3, seen=0.05, log=True),
    "be": Feature("mmol/l", 0, 0, seen=0.15),
    "bicar": Feature("mmol/l", 24, 3, -0.4, -0.6, 0.15),
    "bili": Feature("mg/dl", 0.8, 0.6, 0.3, seen=0.05, log=True),
    "bili_dir": Feature("mg/dl", 0.3, 0.7, 0.3, seen=0.02, log=True),
    "bnd": Feature("%", 5, 0.7, 0.4, seen=0.03, log=True),
    "bun": Feature("mg/dl", 20, 0.4, 0.2, 0.7, 0.12, log=True),
    "ca": Feature("mg/dl", 8.4, 0.6, -0.2, -0.2, 0.1),
    "cai": Feature("mmol/l", 1.12, 0.07, -0.2, -0.1, 0.06),
    "ck": Feature("IU/l", 160, 0.9, 0.2, seen=0.04, log=True),
    "ckmb": Feature("ng/ml", 4, 0.8, 0.1, seen=0.04, log=True),
    "cl": Feature("mmol/l", 105, 5, 0.1, seen=0.12),
    "crea": Feature("mg/dl", 0.95, 0.3, 0.1, 1.3, 0.14, log=True),
    "crp": Feature("mg/l", 60, 0.9, 0.3, seen=0.03, log=True),
    "fgn": Feature("mg/dl", 330, 0.3, 0.1, seen=0.02, log=True),
    "glu": Feature("mg/dl", 135, 0.25, 0.2, seen=0.3, log=True),
    "hgb": Feature("g/dl", 10.6, 1.8, -0.2, -0.1, 0.14),
    "inr_pt": Feature("", 1.2, 0.2, 0.4, seen=0.08, log=True),
    "k": Feature("mmol/l", 4.1, 0.45, 0.1, 0.8, 0.18),
    "lact": Feature("mmol/l", 1.7, 0.45, 0.7, seen=0.1, log=True),
    "lymph": Feature("%", 12, 0.5, -0.3, seen=0.05, log=True),
    "mch": Feature("pg", 30, 1.8, seen=0.1),
    "mchc": Feature("g/dl", 33, 1.1, seen=0.1),
    "mcv": Feature("fl", 90, 5, seen=0.1),
    "methb": Feature("%", 0.8, 0.4, seen=0.02, log=True),
    "mg": Feature("mg/dl", 2.0, 0.3, seen=0.1, kidney=0.3),
    "na": Feature("mmol/l", 139, 4.5, 0.1, seen=0.16),
    "neut": Feature("%", 78, 8, 0.3, seen=0.05),
    "pco2": Feature("mmHg", 40, 0.15, 0.1, seen=0.15, log=True),
    "ph": Feature("", 7.4, 0, seen=0.15),
    "phos": Feature("mg/dl", 3.5, 0.25, 0.1, 0.8, 0.07, log=True),
    "plt": Feature("G/l", 200, 0.35, -0.3, seen=0.12, log=True),
    "po2": Feature("mmHg", 105, 0.3, -0.2, seen=0.15, log=True),
    "ptt": Feature("s", 34, 0.25, 0.3, seen=0.07, log=True),
    "tnt": Feature("ng/ml", 0.05, 1.0, 0.2, 0.2, 0.03, log=True),
    "wbc": Feature("G/l", 11, 0.35, 0.3, seen=0.12, log=True),
}
FLUIDS = {"urine": Feature("ml", 85, 0.5, -0.2, -0.9, 0.6, log=True)}
ALL = {**VITALS, **LABS, **FLUIDS}
FEATURES = tuple(ALL)

_AT = {name: place for place, name in enumerate(FEATURES)}
_BOUNDS = {"o2sat": (60, 100), "fio2": (21, 100), "neut": (20, 98), "lymph": (0.5, 60), "sbp": (50, 240)}
_KINDS = tuple(ALL.values())
_TYPICAL, _SPREAD, _SEVERITY, _KIDNEY, _SEEN = (
    np.array([getattr(feature, key) for feature in _KINDS], dtype=np.float64)
    for key in ("typical", "spread", "severity", "kidney", "seen")
)
_LOG = np.array([feature.log for feature in _KINDS])


@dataclass(frozen=True)
class IcuStays:
    """``values`` float64 (N, HOURS, len(FEATURES)), NaN where not seen; ``injury`` and ``death`` bool (N,)."""

    values: np.ndarray
    injury: np.ndarray
    death: np.ndarray


def draw_icu_stays(count: int, *, seed: int) -> IcuStays:
    """Draw ``count`` stays; stay i depends on seed and i only.

    Raises:
        ConfigError: the count is negative.
    """
    if count < 0:
        raise ConfigError(f"ICU stays need count >= 0, got {count}")
    values = np.zeros((count, HOURS, len(FEATURES)))
    injury, death = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    for i in range(count):
        rng = np.random.default_rng(derive_seed(seed, "phantom icu", i))
        severity = float(rng.standard_normal())
        kidney = 0.5 * severity + np.sqrt(0.75) * float(rng.standard_normal())
        injury[i] = kidney > THRESHOLD
        death[i] = rng.random() < 1 / (1 + np.exp(1.8 - 1.7 * severity))
        values[i] = _seen(rng, _course(rng, severity, max(kidney, 0.0)))
    return IcuStays(values, injury, death)


def _course(rng: np.random.Generator, severity: float, kidney: float) -> np.ndarray:
    """What the features are in each hour (HOURS, features), seen or not."""
    day = (np.arange(HOURS) + 1)[:, None] / HOURS
    patient = rng.standard_normal(len(FEATURES))
    # A random walk that returns: hours near each other are alike, and a day apart they are not.
    steps = rng.standard_normal((HOURS, len(FEATURES)))
    wander = np.zeros_like(steps)
    wander[0] = steps[0]
    for hour in range(1, HOURS):
        wander[hour] = 0.8 * wander[hour - 1] + 0.6 * steps[hour]
    shift = 0.8 * patient + 0.4 * wander + _SEVERITY * severity + _KIDNEY * kidney * day
    course = np.where(_LOG, _TYPICAL * np.exp(_SPREAD * shift), _TYPICAL + _SPREAD * shift)
    for name, (low, high) in _BOUNDS.items():
        course[:, _AT[name]] = np.clip(course[:, _AT[name]], low, high)
    return _derive(course)


def _derive(course: np.ndarray) -> np.ndarray:
    """Mean pressure; pH (Henderson-Hasselbalch) and base excess (Siggaard-Andersen) from bicarbonate and pCO2."""

    def of(name: str) -> np.ndarray:
        return np.asarray(course[:, _AT[name]])

    diastolic = np.clip(of("dbp"), 25, 0.85 * of("sbp"))
    bicarbonate = np.maximum(of("bicar"), 6)
    ph = 6.1 + np.log10(bicarbonate / (0.0307 * of("pco2")))
    known = {
        "dbp": diastolic,
        "map": diastolic + (of("sbp") - diastolic) / 3,
        "bicar": bicarbonate,
        "ph": ph,
        "be": 0.93 * (bicarbonate - 24.4 + 14.8 * (ph - 7.4)),
    }
    for name, values in known.items():
        course[:, _AT[name]] = values
    return course


def _seen(rng: np.random.Generator, course: np.ndarray) -> np.ndarray:
    """Rounded to four digits, with NaN where nobody measured; blood gases and pressures are measured together."""
    chance = rng.random(course.shape)
    for first, *others in (("sbp", "dbp", "map"), ("ph", "pco2", "bicar", "be", "po2")):
        for name in others:
            chance[:, _AT[name]] = chance[:, _AT[first]]
    digits = 10.0 ** (3 - np.floor(np.log10(np.maximum(np.abs(course), 1e-3))))
    return np.where(chance < _SEEN, np.round(course * digits) / digits, np.nan)
