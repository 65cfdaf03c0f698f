"""How a run tells what it is doing: small JSON-able dictionaries, each with an ``event``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Progress = Callable[[dict[str, Any]], None]


def no_progress(event: dict[str, Any]) -> None:
    """For callers that do not want to be told."""
