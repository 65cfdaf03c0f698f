"""The stop signal that long work polls."""

from __future__ import annotations

from collections.abc import Callable

StopSignal = Callable[[], bool]


def never() -> bool:
    """The stop signal of an engine that cannot be aborted."""
    return False
