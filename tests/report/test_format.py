"""Sizes, times and settings as text."""

from __future__ import annotations

import pytest

from consilia.record.metrics import show, show_spread
from consilia.report.format import duration, flat, number, plural, size


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "–"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1_700_000, "1.62 MiB"), (5 * 2**40, "5.0 TiB")],
)
def test_size(count: float | None, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.254, "0.25 s"),
        (12.36, "12.4 s"),
        (59.96, "1 min 00 s"),
        (250, "4 min 10 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_numbers() -> None:
    assert number(1234567) == "1\u202f234\u202f567"
    assert (plural(1, "site"), plural(0, "site")) == ("1 site", "0 sites")


def test_metrics() -> None:
    assert show(0.8066, "percent") == "80.7 %"
    assert show(-0.1274, "signed") == "−0.127"
    assert show(0.0304, "signed") == "+0.030"
    assert show(None, "score") == "–"
    assert show_spread(0.8, 0.0123, "percent") == "80.0 ± 1.2 %"
    assert show_spread(0.8, None, "score") == "0.800"


def test_flat() -> None:
    tree = {"b": {"y": None, "x": [1, 2]}, "a": "text", "c": {}}
    assert flat(tree) == {"a": "text", "b.x": "[1, 2]", "b.y": "null", "c": "{}"}
