"""How methods, sizes, times and config values are written in a report."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from consilia.record.metrics import UNDEFINED

BASELINE_NAMES = {
    "centralised": "Centralised training",
    "local_only": "Local training only",
    "linear": "Logistic regression",
    "majority": "Majority class",
    "filled_box": "Filled box",
    "ellipse": "Ellipse in the box",
    "public_only": "Public data only",
}
BASELINES = tuple(BASELINE_NAMES)


def size(count: float | None) -> str:
    """Bytes with a binary unit and three digits or so: ``1.62 MiB``."""
    if count is None:
        return UNDEFINED
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: ``0.25 s``, ``12.4 s``, ``4 min 10 s``, ``2 h 05 min``."""
    if seconds is None:
        return UNDEFINED
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def ratio(value: float | None) -> str:
    """A metric that may be many times smaller than 1, with two digits: ``0.42``, ``1e-05``."""
    return UNDEFINED if value is None else f"{value:.2g}"


def number(count: int) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{count:,}".replace(",", "\u202f")


def plural(count: int, noun: str) -> str:
    """``1 site``, ``3 sites``."""
    return f"{number(count)} {noun}" if count == 1 else f"{number(count)} {noun}s"


def file_name(title: str) -> str:
    """A title as the name of a file: ``accuracy-per-round``."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested config as dotted keys and JSON values, in key order."""
    found: dict[str, str] = {}
    for key, value in sorted(tree.items()):
        if isinstance(value, Mapping) and value:
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return found
