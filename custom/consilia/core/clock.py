"""Moments as records, logs and ledgers have them."""

from __future__ import annotations

from datetime import UTC, datetime


def timestamp(moment: datetime | None = None) -> str:
    """A moment, or now, to the second: ISO 8601, in UTC."""
    return (moment or datetime.now(UTC)).isoformat(timespec="seconds")
